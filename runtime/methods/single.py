"""The whole model on one device: the truth that every other method is compared with."""

from __future__ import annotations

from runtime.methods.method import Method


class Single(Method):
    """Runs on the source device; sends nothing."""

    generates = True

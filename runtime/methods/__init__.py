"""The ways to run one Transformer over several devices. To add one: a file here, and its line in `METHODS`.

The table names the classes as text, so that a list of methods costs no import of torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.methods.method import Method

METHODS: dict[str, str] = {
    "single": "runtime.methods.single:Single",
    "tensor": "runtime.methods.tensor:Tensor",
    "sequence": "runtime.methods.sequence:Sequence",
    "block": "runtime.methods.block:Block",
    "pipeline": "runtime.methods.pipeline:Pipeline",
    "astra": "runtime.methods.astra:Astra",
}


def load(name: str) -> type[Method]:
    """The class of a method. Raises KeyError for a name that is not in `METHODS`."""
    module, _, attribute = METHODS[name].partition(":")
    loaded: type[Method] = getattr(import_module(module), attribute)
    return loaded

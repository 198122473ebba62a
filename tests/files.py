"""Topology files as tests write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.topology import Topology, TopologyError, load


def problems(tmp_path: Path, text: str) -> list[str]:
    """The problems of a file `t.yaml` with this text, its folder left out."""
    file = tmp_path / "t.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TopologyError) as caught:
        load(file)
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]


def loaded(tmp_path: Path, text: str) -> Topology:
    file = tmp_path / "t.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file)

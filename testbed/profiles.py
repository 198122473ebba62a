"""Profiles as files: how long the stages of methods take on some device, in YAML that people can read and write.

profile: paper_encoder        # what tables call it
about: where the figures come from
model: {layers: 12, width: 768}
entries:
  - {method: single, tokens: 1024, devices: 1, total: 111.5 ms}
  - {method: astra, options: {groups: 1}, tokens: 196, devices: 4, ranks: [{embed: 1.2 ms, input: 90 us, ...}]}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, PlainValidator

from runtime.methods import METHODS, load
from runtime.profile import STAGES, Entry, Profile, Seconds
from testbed.door import Door, Duration, enter
from testbed.topology import TopologyError
from testbed.units import parse_duration, show_duration
from testbed.wiring import nearest
from testbed.yamlfile import Document, Place
from testbed.yamlfile import read as read_yaml


def _seconds(value: object) -> Seconds:
    """ "3 ms", or a list of them, one for each layer."""
    return (
        tuple(float(parse_duration(one)) for one in value) if isinstance(value, list) else float(parse_duration(value))
    )


class ModelDoor(Door):
    """model: enough to see that a profile is of another one."""

    layers: int = Field(ge=1)
    width: int = Field(ge=1)


class EntryDoor(Door):
    """entries[i]."""

    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    tokens: int = Field(ge=1)
    devices: int = Field(ge=1)
    ranks: list[dict[str, Annotated[Seconds, PlainValidator(_seconds)]]] | None = Field(
        default=None, min_length=1, description="seconds of each stage, one mapping for each rank or one for all"
    )
    total: Duration | None = Field(default=None, description='of a whole request, e.g. "39.2 ms"')


class ProfileDoor(Door):
    """The top of the file, its entries left out."""

    profile: str = Field(min_length=1, description="its name")
    about: str = ""
    machine: dict[str, Any] = Field(default_factory=dict)
    model: ModelDoor
    entries: list[Any] = Field(min_length=1, description="[{method: single, tokens: 196, devices: 1, total: 1 s}]")


def read(path: Path) -> Profile:
    """A profile. Raises TopologyError with all that is wrong with the file, one line each."""
    document = read_yaml(path)
    head = enter(ProfileDoor, document.value, (), document)
    listed = document.value.get("entries")
    layers = head.model.layers if head else 0
    entries = [
        entry
        for index, value in enumerate(listed if isinstance(listed, list) else [])
        if (entry := _entry(document, index, value, layers)) is not None
    ]
    if document.found or head is None:
        raise TopologyError(document.problems)
    return Profile(head.profile, layers, head.model.width, tuple(entries))


def _entry(document: Document, index: int, value: Any, layers: int) -> Entry | None:
    place = ("entries", index)
    door = enter(EntryDoor, value, place, document)
    if door is None:
        return None
    if door.method not in METHODS:
        hint = nearest(door.method, METHODS)
        document.problem((*place, "method"), f"unknown method; {hint}allowed: {', '.join(METHODS)}", door.method)
        return None
    try:
        load(door.method).Options(**door.options)
    except (TypeError, ValueError) as error:
        document.problem((*place, "options"), str(error), door.options)
    if (door.total is None) == (door.ranks is None):
        document.problem(place, "give either total or ranks")
        return None
    ranks = door.ranks or []
    if ranks and len(ranks) not in (1, door.devices):
        document.problem((*place, "ranks"), f"{len(ranks)} given: one for all ranks, or one for each of {door.devices}")
    for rank, stages in enumerate(ranks):
        _examine_stages(document, (*place, "ranks", rank), stages, layers)
    return Entry(door.method, door.options, door.tokens, door.devices, tuple(ranks), door.total)


def _examine_stages(document: Document, place: Place, stages: Mapping[str, Seconds], layers: int) -> None:
    """A stage that does not exist would never be waited for: its time would be missing without a word."""
    for stage, seconds in stages.items():
        if stage not in STAGES:
            hint = nearest(stage, STAGES)
            document.problem((*place, stage), f"unknown stage; {hint}allowed: {', '.join(STAGES)}")
        elif isinstance(seconds, tuple) and len(seconds) != layers:
            document.problem((*place, stage), f"{len(seconds)} values for {layers} layers")


def write(path: Path, profile: Profile, about: str, machine: Mapping[str, Any]) -> None:
    """The file that `read` reads back. Raises OSError."""
    content = {
        "profile": profile.name,
        "about": about,
        "machine": dict(machine),
        "model": {"layers": profile.layers, "width": profile.width},
        "entries": [_shown(entry) for entry in profile.entries],
    }
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


def _shown(entry: Entry) -> dict[str, Any]:
    options = {"options": dict(entry.options)} if entry.options else {}
    head = {"method": entry.method, **options, "tokens": entry.tokens, "devices": entry.devices}
    if entry.total_s is not None:
        return {**head, "total": show_duration(entry.total_s, exact=True)}
    return {**head, "ranks": [{stage: _words(seconds) for stage, seconds in stages.items()} for stages in entry.ranks]}


def _words(seconds: Seconds) -> str | list[str]:
    return _us(seconds) if isinstance(seconds, float) else [_us(one) for one in seconds]


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.4g} us" if seconds < 1e-3 else f"{seconds * 1e3:.5g} ms"

"""Strict YAML that remembers where everything stood, so that a problem can name its file, line and key.

Stricter than YAML 1.1: a key twice is a problem, and so are anchors; `yes` is text and `010` is text, not true and 8.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from testbed.topology import TopologyError, Trace

Place = tuple[str | int, ...]
_MAX_BYTES = 16_000_000  # a saved run has its traces written out, step by step
_NOTHING = object()
TOPOLOGY = "a topology is a mapping that starts with name, backend, hosts, run"


class _Loader(yaml.SafeLoader):
    """Only what a topology needs is more than text: true and false, null, decimal numbers."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - replaces the inherited table of this class

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed: write it out", problem_mark=mark)
        return super().compose_node(parent, index)


class _QuickLoader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """The same table of types in C, which reads ten times as fast, but anchors too, and says less of what is wrong."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as above


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    ("float", r"-?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?", "-0123456789"),
    ("null", r"~|null|", ["~", "n", ""]),
):
    for _kind in (_Loader, _QuickLoader):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "bool", "int", "float", "null")}


def dotted(place: Place) -> str:
    """("links", 2, "rate") -> "links[2].rate"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass
class Document:
    """The plain values of a file, the line of each place in it, and the problems found so far, by line.

    Short forms may be written out in `value`; `sources` says of such a place where in the file it comes from.
    """

    name: str
    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    found: list[tuple[int, str]] = field(default_factory=list)
    places: set[Place] = field(default_factory=set)  # of the problems found
    unknown: set[Place] = field(default_factory=set)  # those of them that are keys which do not exist
    sources: dict[Place, Place] = field(default_factory=dict)
    said: set[tuple[int, str]] = field(default_factory=set)  # the same as `found`, for looking up
    traces: dict[str | int, tuple[Any, Trace]] = field(default_factory=dict)  # read so far: what was written, meant

    def source(self, place: Place) -> Place:
        """Where in the file a place of `value` was written; a place of the file stays as it is."""
        for length in range(len(place), 0, -1):
            target = self.sources.get(place[:length])
            if target is not None and place[: len(target)] != target:
                return target + place[length:]
        return place

    def problem(self, place: Place, allowed: str, value: Any = _NOTHING, line: int | None = None) -> None:
        """Note `file:line key = value: what is allowed`; a place that is not there takes its parent's line.

        The same line twice, as of one default that many links share, is said once.
        """
        written = self.source(place)
        self.places |= {place, written}
        known = written
        while known and known not in self.lines:
            known = known[:-1]
        line = line or self.lines.get(known, 1)
        key = dotted(written)
        what = key if value is _NOTHING else f"{key} = {_shown(value)}"
        text = f"{self.name}:{line} {what}: {allowed}" if what else f"{self.name}:{line}: {allowed}"
        # What the file says may hold anything: a line break or a terminal's control codes stay visible, on one line.
        said = (line, "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text))
        if said not in self.said:
            self.said.add(said)
            self.found.append(said)

    def wrong(self, *place: str | int) -> bool:
        """Whether a problem was found at this place or inside it: what follows from it is not worth a second line."""
        return any(found[: len(place)] == place for found in self.places)

    def unsound(self, *place: str | int) -> bool:
        """The same, but for keys that do not exist: on them nothing else depends."""
        return any(found[: len(place)] == place for found in self.places - self.unknown)

    def at(self, place: Place, otherwise: Any) -> Any:
        """What the file has at a place, as it was written, or `otherwise`."""
        value = self.value
        try:
            for part in place:
                value = value[part]
        except (KeyError, IndexError, TypeError):
            return otherwise
        return value

    @property
    def problems(self) -> list[str]:
        """All lines, in the order of the file."""
        return [text for _, text in sorted(self.found, key=lambda entry: entry[0])]


def _read_mapping(node: yaml.MappingNode, place: Place, document: Document, loader: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.problem(place, "a key must be a word", line=line)
            continue
        key = str(key_node.value)
        if key in values:
            first = document.lines[(*place, key)]
            document.problem((*place, key), f"is there twice, first in line {first}", line=line)
            continue
        document.lines[(*place, key)] = line
        values[key] = _read_node(value_node, (*place, key), document, loader)
    return values


def _read_node(node: yaml.Node, place: Place, document: Document, loader: Any) -> Any:
    document.lines.setdefault(place, node.start_mark.line + 1)
    if node.tag not in _TAGS:
        document.problem(place, f"the tag {node.tag} is not allowed")
        return None
    if isinstance(node, yaml.MappingNode):
        return _read_mapping(node, place, document, loader)
    if isinstance(node, yaml.SequenceNode):
        return [_read_node(item, (*place, index), document, loader) for index, item in enumerate(node.value)]
    return loader.construct_object(node)


def _composed(text: bytes) -> tuple[Any, yaml.Node | None]:
    """The nodes and who constructs them. Raises yaml.YAMLError, also for an alias."""
    if b"&" not in text:  # without an anchor there is no alias
        quick = _QuickLoader(text)
        try:
            return quick, quick.get_single_node()
        except yaml.YAMLError:
            pass  # the slow one says it in its words
    loader = _Loader(text)
    return loader, loader.get_single_node()


def read(path: Path, what: str = TOPOLOGY) -> Document:
    """Read a file whose top is a mapping; `what` says so where it is none. Doubled keys end up in `.found`.

    Raises TopologyError, one line, when it cannot be read at all or is not YAML.
    """
    document = Document(str(path))
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise TopologyError([f"{path}: larger than {_MAX_BYTES} bytes: {what}"])
        loader, root = _composed(text)
        if not isinstance(root, yaml.MappingNode):
            raise TopologyError([f"{path}:1: {what}"])
        document.value = _read_node(root, (), document, loader)
    except OSError as error:
        raise TopologyError([f"{path}: cannot be read: {error.strerror}"]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise TopologyError([f"{path}:{line}: not YAML: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TopologyError([f"{path}: not YAML text: {' '.join(str(error).split())}"]) from error
    except (RecursionError, ValueError) as error:
        raise TopologyError([f"{path}: not usable YAML: {error}"]) from error
    return document

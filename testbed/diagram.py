"""A topology as a picture: SVG that stands alone, or Mermaid for documents that draw it themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from xml.etree import ElementTree as ET

from testbed import events, quantities
from testbed.quantities import counted
from testbed.sheet import Box, Sheet, arrange
from testbed.topology import Link, Topology

MOST_SPELLED = 20  # links whose quantities are written beside each; with more, a letter stands for them
_FONT, _LINE, _WIDE = 12, 15, 7.2  # pixels: letters, lines, and about what a letter is wide
_MARGIN = 20
_COLORS = {
    "host": ("#eaf1fb", "#2f5d9b"), "bridge": ("#fdf3dc", "#9a6d10"),
    "ovs": ("#fdf3dc", "#9a6d10"), "shared": ("#fbe6e6", "#a03030"),
}  # fmt: skip


def svg(topology: Topology) -> str:
    """The text of an .svg file: nodes as boxes, every link with what is declared of it, events below."""
    nodes = _nodes(topology)
    labels, legend = _labels(topology)
    sheet = arrange(
        topology,
        {name: _size(lines, 10) for name, lines in nodes.items()},
        {index: _size(lines, 3) for index, lines in labels.items()},
    )
    notes = [*legend, *_notes(topology)]
    title = f"{topology.name}: {counted(len(topology.hosts), 'host')}, backend {topology.backend}"
    root, down = _page(sheet, title, notes)
    for link in topology.links:
        a, b = sheet.nodes[link.a], sheet.nodes[link.b]
        ends = {"x1": a.x, "y1": a.y, "x2": b.x, "y2": b.y}
        ET.SubElement(root, "line", {**_numbers(ends), "stroke": "#8a8f98", "stroke-width": "1.5"})
    kinds = {switch.name: switch.kind for switch in topology.switches}
    for index, lines in labels.items():
        _box(root, sheet.labels[index], lines, "label", ("#ffffff", "none"))
    for name, lines in nodes.items():
        _box(root, sheet.nodes[name], lines, "node", _COLORS[kinds.get(name, "host")])
    for row, note in enumerate(notes):
        _text(root, sheet.edges[0], down + row * _LINE, note, {"text-anchor": "start"})
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=False) + "\n"


def mermaid(topology: Topology) -> str:
    """The text of a Mermaid flowchart. Nodes have names of their own there: a host may be called `end`."""
    nodes = _nodes(topology)
    ids = {name: f"n{index}" for index, name in enumerate(nodes)}
    lines = ["graph LR"]
    switches = {switch.name for switch in topology.switches}
    for name, short in ids.items():
        left, right = ("([", "])") if name in switches else ("[", "]")
        lines.append(f'    {short}{left}"{_quoted(nodes[name])}"{right}')
    for link in topology.links:
        for a, arrow, b, words in _arrows(topology, link):
            lines.append(f'    {ids[a]} {arrow}|"{_quoted(words)}"| {ids[b]}')
    comments = "".join(f"    %% {' '.join(note.split())}\n" for note in _notes(topology))
    return "\n".join(lines) + "\n" + comments


def _nodes(topology: Topology) -> dict[str, list[str]]:
    """Of every host and switch its name and what it is or may use, line by line."""
    hosts = {host.name: [host.name, *quantities.of_host(host)] for host in topology.hosts}
    return hosts | {switch.name: [switch.name, *_split([quantities.of_switch(switch)])] for switch in topology.switches}


def _link_lines(topology: Topology, link: Link) -> list[str]:
    """A quantity per line; if the directions differ one after the other, each under its name."""
    found = []
    for name, words in quantities.of_link(topology, link, brief=True):
        found += [*([name.replace("->", "→")] if name else []), *_split(words)]
    return found


def _split(words: Iterable[str]) -> list[str]:
    return [part for text in words for part in text.split(", ")]


def _labels(topology: Topology) -> tuple[dict[int, list[str]], list[str]]:
    """Lines at each link, and lines below the picture that explain them where there are too many links to spell out."""
    if len(topology.links) <= MOST_SPELLED:
        return {index: _link_lines(topology, link) for index, link in enumerate(topology.links)}, []
    kinds: dict[str, list[int]] = {}
    for index, link in enumerate(topology.links):
        kinds.setdefault(", ".join(_link_lines(topology, link)), []).append(index)
    if len(kinds) == 1:
        return {}, [f"each of the {len(topology.links)} links: {next(iter(kinds))}"]
    letters = dict(zip(kinds, _letters(len(kinds)), strict=True))
    labels = {index: [letters[text]] for text, indices in kinds.items() for index in indices}
    return labels, [f"{letter}: {text}" for text, letter in letters.items()]


def _letters(number: int) -> list[str]:
    """A, B, ... Z, A1, B1, ..."""
    return [ascii_uppercase[i % 26] + (str(i // 26) if i >= 26 else "") for i in range(number)]


def _notes(topology: Topology) -> list[str]:
    local = ["plain processes on loopback, nothing is shaped"] if topology.backend == "local" else []
    return [*local, *map(events.show, topology.events)]


def _size(lines: Sequence[str], padding: float) -> tuple[float, float]:
    return max(map(len, lines)) * _WIDE + 2 * padding, len(lines) * _LINE + padding


def _page(sheet: Sheet, title: str, notes: Sequence[str]) -> tuple[ET.Element, float]:
    """The root with its background and title, and where the notes start."""
    left, top, right, bottom = sheet.edges
    right = max(right, left + max(len(text) for text in (title, *notes)) * _WIDE)
    down = bottom + 2 * _LINE
    x, y = left - _MARGIN, top - _MARGIN - 2 * _LINE
    width, height = right + _MARGIN - x, down + len(notes) * _LINE + _MARGIN - y
    root = ET.Element("svg", {
        "xmlns": "http://www.w3.org/2000/svg", **_numbers({"width": width, "height": height}),
        "viewBox": f"{x:.1f} {y:.1f} {width:.1f} {height:.1f}", "font-family": "Helvetica, Arial, sans-serif",
        "font-size": str(_FONT),
    })  # fmt: skip
    ET.SubElement(root, "title").text = title
    ET.SubElement(root, "rect", {**_numbers({"x": x, "y": y, "width": width, "height": height}), "fill": "#ffffff"})
    _text(root, left, top - _LINE, title, {"font-weight": "bold", "text-anchor": "start"})
    return root, down


def _box(root: ET.Element, box: Box, lines: Sequence[str], kind: str, colors: tuple[str, str]) -> None:
    """A rectangle with lines of text in its middle; the first of a node is its name."""
    place = {"x": box.x - box.width / 2, "y": box.y - box.height / 2, "width": box.width, "height": box.height}
    group = ET.SubElement(root, "g", {"class": kind})
    ET.SubElement(group, "rect", {**_numbers(place), "rx": "5", "fill": colors[0], "stroke": colors[1]})
    for row, line in enumerate(lines):
        y = box.y + (row - (len(lines) - 1) / 2) * _LINE + _FONT / 3
        bold = (kind == "node" and row == 0) or "→" in line
        _text(group, box.x, y, line, {"font-weight": "bold"} if bold else {})


def _text(parent: ET.Element, x: float, y: float, text: str, style: Mapping[str, str]) -> None:
    attributes = {**_numbers({"x": x, "y": y}), "text-anchor": "middle", **style}
    ET.SubElement(parent, "text", attributes).text = text


def _numbers(values: Mapping[str, float]) -> dict[str, str]:
    return {key: f"{value:.1f}" for key, value in values.items()}


def _arrows(topology: Topology, link: Link) -> list[tuple[str, str, str, list[str]]]:
    """One line between the two, or an arrow for each direction where they differ."""
    found = [_split(words) for _, words in quantities.of_link(topology, link, brief=True)]
    if len(found) == 1:
        return [(link.a, "---", link.b, found[0])]
    return [(link.a, "-->", link.b, found[0]), (link.b, "-->", link.a, found[1])]


def _quoted(lines: Sequence[str]) -> str:
    """Lines of one label: what means something to Mermaid or HTML by its number."""
    return "<br/>".join("".join(f"#{ord(c)};" if c in '"#<>&`\\' else c for c in line) for line in lines)

"""Where the nodes of a topology and the labels of its links go on a drawing, so that none lies on another.

networkx places the nodes, by the kind of topology; the sheet then grows until everything has room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import networkx as nx

from testbed.paths import links_at
from testbed.topology import Topology

if TYPE_CHECKING:
    Graph = nx.Graph[str, dict[str, Any], dict[str, Any]]

Point = tuple[float, float]
GAP = 8.0  # between any two boxes, in pixels
_START, _GROW, _TRIES, _MORE = 100.0, 1.12, 40, 8
_ALONG = (0.5, 0.42, 0.58, 0.34, 0.66, 0.27, 0.73, 0.2, 0.8)  # of a link, where its label may be
_MANY = 40  # links, among which labels find no place that no other link crosses
_STRETCH = 1.5  # labels are wider than high


@dataclass(frozen=True)
class Box:
    """A rectangle around (x, y), in pixels."""

    x: float
    y: float
    width: float
    height: float

    def touches(self, other: Box, gap: float = GAP) -> bool:
        """Whether less than `gap` is between the two."""
        apart_x, apart_y = abs(self.x - other.x), abs(self.y - other.y)
        return apart_x < (self.width + other.width) / 2 + gap and apart_y < (self.height + other.height) / 2 + gap

    def crossed(self, start: Point, end: Point) -> bool:
        """Whether the line from start to end passes through (Liang and Barsky, 1984)."""
        first, last = 0.0, 1.0
        sides = zip(start, end, (self.x, self.y), (self.width / 2, self.height / 2), strict=True)
        for begin, finish, centre, half in sides:
            step = finish - begin
            if step == 0:
                if abs(begin - centre) > half:
                    return False
                continue
            near, far = sorted(((centre - half - begin) / step, (centre + half - begin) / step))
            first, last = max(first, near), min(last, far)
        return first < last


@dataclass(frozen=True)
class Sheet:
    """nodes: by name; labels: by the index of the link, only for links that have one."""

    nodes: Mapping[str, Box]
    labels: Mapping[int, Box]

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of all that is on it."""
        boxes = [*self.nodes.values(), *self.labels.values()]
        return (
            min(box.x - box.width / 2 for box in boxes),
            min(box.y - box.height / 2 for box in boxes),
            max(box.x + box.width / 2 for box in boxes),
            max(box.y + box.height / 2 for box in boxes),
        )


def arrange(topology: Topology, sizes: Mapping[str, Point], labels: Mapping[int, Point]) -> Sheet:
    """Every node and every label with room around it, and if that takes not much more, no link behind another's label.

    sizes, labels: width and height, by node and by link's index.
    """
    spots = _spots(topology)
    scale, enough, found = _START, _TRIES, None
    while enough:
        nodes = {name: Box(x * scale, y * scale, *sizes[name]) for name, (x, y) in spots.items()}
        placed = None
        if not any(one.touches(other) for one, other in combinations(nodes.values(), 2)):
            placed = _labels(topology, nodes, labels)
        if placed is not None and placed[1] == 0:
            return Sheet(nodes, placed[0])
        if placed is not None and found is None:
            enough, found = _MORE, Sheet(nodes, placed[0])
        scale, enough = scale * _GROW, enough - 1
    if found is None:
        raise AssertionError(f"{topology.name}: two nodes are in one spot")
    return found


def _labels(
    topology: Topology, nodes: Mapping[str, Box], sizes: Mapping[int, Point]
) -> tuple[dict[int, Box], int] | None:
    """Each on its own link, across as few others as may be, and how many that are; None if there is no room."""
    ways = [((nodes[link.a].x, nodes[link.a].y), (nodes[link.b].x, nodes[link.b].y)) for link in topology.links]
    found: dict[int, Box] = {}
    crossed = 0
    for index, size in sizes.items():
        (ax, ay), (bx, by) = ways[index]
        boxes = [Box(ax + t * (bx - ax), ay + t * (by - ay), *size) for t in _ALONG]
        taken = [*nodes.values(), *found.values()]
        free = [box for box in boxes if not any(box.touches(other) for other in taken)]
        if not free:
            return None
        others = [way for other, way in enumerate(ways) if other != index and len(ways) <= _MANY]
        counts = [sum(box.crossed(*way) for way in others) for box in free]
        crossed += min(counts)
        found[index] = free[counts.index(min(counts))]
    return found, crossed


def _spots(topology: Topology) -> dict[str, Point]:
    """Where nodes are to each other, the two nearest 1 apart."""
    graph: Graph = nx.Graph()
    graph.add_nodes_from(links_at(topology))
    graph.add_edges_from((link.a, link.b) for link in topology.links)
    found = _layout(graph, [switch.name for switch in topology.switches])
    spots = {name: (float(x) * _STRETCH, float(y)) for name, (x, y) in found.items()}
    nearest = min((math.dist(one, other) for one, other in combinations(spots.values(), 2)), default=1.0)
    return {name: (x / nearest, y / nearest) for name, (x, y) in spots.items()}


def _layout(graph: Graph, switches: Sequence[str]) -> Mapping[str, Any]:
    """Two coordinates for every node, by the kind of graph.

    A line downwards, a ring or a mesh in a circle, a star around its middle, two sites beside each other, and anything
    else by the lengths of the ways between its nodes.
    """
    nodes, degrees = list(graph), dict(graph.degree)
    tree = len(graph.edges) == len(nodes) - 1
    middle = max(nodes, key=lambda node: degrees[node])
    found: Mapping[str, Any]
    if tree and degrees[middle] <= 2:
        ends = [node for node in nodes if degrees[node] < 2]
        return {node: (0.0, float(row)) for row, node in enumerate(nx.shortest_path(graph, ends[0], ends[-1]))}
    if tree and degrees[middle] == len(nodes) - 1:
        found = nx.shell_layout(graph, [[middle], [node for node in nodes if node != middle]])
    elif tree and len(switches) == 2 and all(degrees[node] == 1 for node in nodes if node not in switches):
        found = _two_sites(graph, switches[0], switches[1])
    elif set(degrees.values()) == {2}:
        found = nx.circular_layout(nx.cycle_graph(list(nx.dfs_preorder_nodes(graph, nodes[0]))))
    elif not switches or not graph.edges:
        found = nx.circular_layout(graph)
    else:
        found = nx.kamada_kawai_layout(graph)
    return found


def _two_sites(graph: Graph, left: str, right: str) -> dict[str, Point]:
    """Hosts in a column at either side; the more there are, the further from their switch."""
    here, there = (
        [node for node in graph if node in graph[a] and node != b] for a, b in ((left, right), (right, left))
    )
    columns = nx.multipartite_layout(graph, {0: here, 1: [left], 2: [right], 3: there})
    wider = max(1.0, max(len(here), len(there)) / 3)
    return {node: (float(x) * wider, float(y)) for node, (x, y) in columns.items()}

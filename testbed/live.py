"""What a terminal shows of a running method: its line, what crosses the links, what devices do. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap

from rich.text import Text

from testbed.gauge import Flow
from testbed.tables import NONE, digits

IDLE, LOST = "idle", "lost"  # what a device does that no method uses; one that died
MOST_LINES = 24  # of any window
MOST_FLOWS = 8  # that are shown; of more the busiest
STYLES = {IDLE: "dim", LOST: "bold red"}
_NUMBERS = (9, 9, 9, 7)  # widths of the columns; a narrow window has the first two
_NAME = 12  # the least width of a direction's name


def screen(head: str, devices: Mapping[str, str], flows: Sequence[Flow], width: int, height: int) -> Text:
    """All of it in a window: no line longer than `width`, and fewer lines than `height` or MOST_LINES.

    head: the line of the method. devices: host -> what its device does, in words.
    """
    lines = [Text(line) for line in wrap(head, width, subsequent_indent="  ")]
    states = device_lines(devices, width)
    lines += flow_lines(flows, width, min(height, MOST_LINES) - 1 - len(lines) - len(states)) + states
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines[: max(1, min(height, MOST_LINES) - 1)])


def device_lines(devices: Mapping[str, str], width: int) -> list[Text]:
    """A line for everything that devices do, with those that do it: "answered request 3: h1, h2"."""
    groups: dict[str, list[str]] = {}
    for host, words in devices.items():
        groups.setdefault(words, []).append(host)
    order = sorted(groups, key=lambda words: (words != LOST, words == IDLE, words))
    return [Text(f"{words}: {_names(groups[words], width - len(words) - 2)}", STYLES.get(words, "")) for words in order]


def flow_lines(flows: Sequence[Flow], width: int, room: int) -> list[Text]:
    """A table of what crosses the links, in `room` lines: the busiest directions and the sum of the others."""
    if room < 4 or not flows:
        return [Text(busiest(flows))] if flows and room > 0 else []
    most = len(flows) if len(flows) <= min(MOST_FLOWS, room - 1) else min(MOST_FLOWS, room - 2)
    shown = sorted(flows, key=lambda flow: flow.bit_s, reverse=True)[:most]
    rest = [flow for flow in flows if flow not in shown]
    rows = [_row(flow) for flow in flows if flow in shown]
    if rest:
        drops, lost = _sum([flow.queue_drops for flow in rest]), _sum([flow.lost for flow in rest])
        rows.append(_row(Flow(f"{len(rest)} others", sum(flow.bit_s for flow in rest), math.inf, drops, lost)))
    rows.insert(0, ("link", "Mbit/s", "of", "dropped", "lost"))
    numbers = _NUMBERS if width >= sum(_NUMBERS) + _NAME else _NUMBERS[:2]
    name = min(max(len(row[0]) for row in rows), max(_NAME, width - sum(numbers)))
    return [Text(_line(row, name, numbers), "dim" if row is rows[0] else "") for row in rows]


def busiest(flows: Sequence[Flow]) -> str:
    """The direction that carries most: "h1 -> s1 9.81 of 10 Mbit/s"; nothing without directions."""
    flow = max(flows, key=lambda flow: flow.bit_s, default=None)
    if flow is None:
        return ""
    name, now, line, _, _ = _row(flow)
    return f"{name} {now} of {line} Mbit/s" if 0 < flow.line_bit_s < math.inf else f"{name} {now} Mbit/s"


def _row(flow: Flow) -> tuple[str, ...]:
    """Name, throughput and rate of the line in Mbit/s, frames that a full queue dropped, frames lost."""
    line = NONE if math.isinf(flow.line_bit_s) else _mbit_s(flow.line_bit_s) if flow.line_bit_s else "down"
    return flow.name, _mbit_s(flow.bit_s), line, *(NONE if n is None else str(n) for n in (flow.queue_drops, flow.lost))


def _line(row: Sequence[str], width: int, numbers: Sequence[int]) -> str:
    name = row[0] if len(row[0]) <= width else f"{row[0][: width - 1]}…"
    return f"{name:<{width}}" + "".join(f"{word:>{w}}" for word, w in zip(row[1:], numbers, strict=False))


def _mbit_s(bit_s: float) -> str:
    return f"{digits(round(bit_s / 1e6, 3)):g}"


def _sum(counts: Sequence[int | None]) -> int | None:
    """Of what is known; None if nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _names(names: Sequence[str], room: int) -> str:
    """As many names as there is room for, and how many more there are."""
    for shown in range(len(names), 0, -1):
        more = f" and {len(names) - shown} more" if shown < len(names) else ""
        text = ", ".join(names[:shown]) + more
        if len(text) <= room:
            return text
    return str(len(names))

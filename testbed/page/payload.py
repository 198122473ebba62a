"""Bytes of a request, all devices together: payload between layers against its formula, and all that left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from testbed.page.data import Row, Setting, Study, of, records
from testbed.page.head import marked, none_to_show
from testbed.page.markup import Piece, Plot, joined, panels, table
from testbed.page.style import INK, Look, log_axis, words
from testbed.tables import NONE, size

ROW, ENDS = 40, 64  # pixels
MARKS = {  # column: what it is, mark, filled with the method's colour
    "formula_bytes": ("formula", "line-ns", False),
    "payload_bytes": ("payload", "circle", True),
    "wire_bytes": ("on the wire", "x-thin", False),
}
TOLD = (
    "Bytes of one request, all devices together (medians). Circle: payload between layers; upright line: what the "
    "method's formula says; cross: all that left the interfaces, with input, result, headers and retransmissions."
)
MATCH = {True: "as the formula", False: "NOT as the formula"}


def payload(study: Study, setting: Setting, looks: Mapping[str, Look]) -> Piece:
    """A row per method on a logarithmic axis, and the numbers."""
    rows = records(of(study.methods, setting=setting.index))
    shown = [row for row in rows if row["payload_bytes"] or row["wire_bytes"]]
    caption = f"Bytes per request, {setting.title}."
    numbers = table(
        ("method", "payload", "formula", "", "input and result", "on the wire", "wire / payload"),
        [_cells(row) for row in rows], marked(caption, setting.replayed),
    )  # fmt: skip
    if not shown:
        return joined(none_to_show("Nothing was sent."), numbers)
    told = [TOLD]
    if silent := [row["label"] for row in rows if row not in shown]:
        told.append(f"Sends nothing: {', '.join(silent)}.")
    if all(row["wire_bytes"] is None for row in rows):
        told.append("No host had an interface of its own, so nothing was counted on the wire.")
    plot = Plot(f"bytes-{setting.index}", _alt(shown), ENDS + ROW * len(shown), *_plot(shown, looks))
    return joined(panels([plot], marked(" ".join(told), setting.replayed), wide=True), numbers)


def _plot(rows: list[Row], looks: Mapping[str, Look]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    places = list(range(len(rows)))
    colours = [looks[row["label"]].colour for row in rows]
    names = [words(row["label"]) for row in rows]
    data = [
        {
            "type": "scatter", "mode": "markers", "name": title, "y": places,
            "x": [row[column] or None for row in rows],
            "text": [f"{name}<br>{title} {size(row[column])}" for name, row in zip(names, rows, strict=True)],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {"symbol": mark, "size": 11 if filled else 16, "color": colours if filled else INK,
                       "line": {"width": 1 if filled else 2.5, "color": INK}},
        }
        for column, (title, mark, filled) in MARKS.items()
    ]  # fmt: skip
    every = [row[column] for column in MARKS for row in rows]
    y = {"tickvals": places, "ticktext": names, "range": [len(names) - 0.5, -0.5], "ticks": ""}
    return data, {"xaxis": log_axis(every, size, "bytes per request"), "yaxis": y}


def _alt(rows: list[Row]) -> str:
    said = (f"{row['label']} {size(row['payload_bytes'])}" for row in rows)
    return f"Payload per request: {', '.join(said)}"


def _cells(row: Row) -> tuple[object, ...]:
    sent, wire = row["payload_bytes"], row["wire_bytes"]
    ratio = NONE if not sent or wire is None else f"{wire / sent:.3g}"
    return (
        row["label"], size(sent), size(row["formula_bytes"]), MATCH.get(row["matches_formula"], NONE),
        size(row["ends_bytes"]), size(wire), ratio,
    )  # fmt: skip

"""Where the time of every device goes: compute, coding, waiting, scatter, gather, one bar per device."""

from __future__ import annotations

from typing import Any

import pandas as pd

from testbed.page.data import Setting, Study, of
from testbed.page.head import marked, none_to_show
from testbed.page.markup import Piece, Plot, details, joined, legend, panels, table
from testbed.page.measured import PARTS
from testbed.page.style import KINDS, words
from testbed.tables import duration

ROW, ENDS, LEAST = 26, 72, 124  # pixels
SHARES = {**PARTS, "rest_s": "rest"}
TOLD = (
    "Means over the measured requests, so that the parts of a device add up to its mean time, from the first byte of "
    "its input (source: from the request) to its last work. Every method has its own time axis. Compute holds waiting "
    "for a CPU share; rest is what is left: sending, receiving and Python."
)


def breakdown(study: Study, setting: Setting) -> Piece:
    """A plot per method, the colours, the numbers."""
    rows = means(of(study.devices, setting=setting.index))
    if rows.empty:
        return none_to_show("No request was measured.")
    labels = list(dict.fromkeys(rows["label"]))
    plots = [_plot(f"breakdown-{setting.index}-{i}", of(rows, label=label), label) for i, label in enumerate(labels)]
    numbers = table(
        ("method, device", "n", *SHARES.values()),
        [(f"{row['label']}, {row['host']}", row["n"], *(duration(row[part]) for part in SHARES))
         for row in rows.to_dict("records")],
        marked(f"Mean seconds of every device, {setting.title}.", setting.replayed),
    )  # fmt: skip
    colours = legend((name, KINDS[name][0]) for name in SHARES.values())
    caption = marked(TOLD, setting.replayed)
    return joined(colours, panels(plots, caption), details("The numbers", numbers))


def means(devices: pd.DataFrame) -> pd.DataFrame:
    """A row per label and device: label, rank, host, n, the mean seconds of every part."""
    grouped = devices.groupby(["label", "rank", "host"], sort=False)
    found = grouped[list(SHARES)].mean()
    found["n"] = grouped.size()
    return found.reset_index()


def _plot(name: str, rows: pd.DataFrame, label: str) -> Plot:
    hosts = [words(host) for host in rows["host"]]
    total = rows[list(SHARES)].sum(axis=1).max()
    data = [
        {
            "type": "bar", "orientation": "h", "name": part, "y": hosts, "x": [float(f"{v:.6g}") for v in rows[column]],
            "marker": {"color": KINDS[part][0]}, "text": [_inside(part, value, total) for value in rows[column]],
            "textfont": {"color": KINDS[part][1]}, "hovertemplate": f"%{{y}}: {part} %{{x:.3s}}s<extra></extra>",
        }
        for column, part in SHARES.items() if rows[column].max() > 0
    ]  # fmt: skip
    layout: dict[str, Any] = {
        "barmode": "stack", "bargap": 0.25, "xaxis": {**_ticks(total), "title": {"text": "mean time of a request"}},
        "yaxis": {"autorange": "reversed", "type": "category", "ticks": ""},
    }  # fmt: skip
    alt = f"{label}: " + "; ".join(
        f"{row['host']} " + ", ".join(f"{part} {duration(row[column])}" for column, part in SHARES.items())
        for row in rows.to_dict("records")
    )
    return Plot(name, alt, max(ENDS + ROW * len(rows), LEAST), data, layout, f"{label}, n = {rows['n'].max()}")


def _inside(part: str, value: float, total: float) -> str:
    """What a bar says of itself where it is long enough for it on a phone."""
    return part if value > 0.2 * total else ""


def _ticks(most: float) -> dict[str, Any]:
    """A linear axis of seconds from 0, four or five marks with their unit."""
    step = next(s for power in range(-9, 9) for one in (1, 2, 5) if most / (s := float(f"{one}e{power}")) <= 5)
    ticks = [i * step for i in range(int(most / step) + 1)]
    return {"range": [0, most * 1.02], "tickvals": ticks, "ticktext": [duration(t) if t else "0" for t in ticks]}

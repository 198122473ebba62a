"""The map "fastest method by rate and delay", with the frontier behind which one device alone is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from testbed.units import show_duration, show_rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Latency = Callable[[str, float, float], float]
SINGLE = "single"
# Okabe and Ito: told apart by colour-blind readers; grey is for one device alone.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_GREY = "#BBBBBB"


def frontier(
    latency: Latency, methods: Sequence[str], rates_bit_s: Sequence[float], delays_s: Sequence[float]
) -> pd.DataFrame:
    """Every point of the grid: one row with rate_bit_s, delay_s, fastest, latency_s, single_s, speedup, single_wins and
    what each method takes (columns named as the methods, seconds).

    latency(method, rate, delay) gives seconds; `single` is asked once: it needs no network. Ties go to single, then to
    the method named first. Raises ValueError without `single` or another method.
    """
    others = [method for method in methods if method != SINGLE]
    if SINGLE not in methods or not others:
        raise ValueError("a frontier is between single and others: give single and at least one more method")
    single_s = latency(SINGLE, rates_bit_s[0], delays_s[0])
    rows = []
    for delay_s in delays_s:
        for rate_bit_s in rates_bit_s:
            times_s = {SINGLE: single_s, **{method: latency(method, rate_bit_s, delay_s) for method in others}}
            fastest = min(times_s, key=lambda method: times_s[method])
            point = {"rate_bit_s": rate_bit_s, "delay_s": delay_s, "fastest": fastest, "latency_s": times_s[fastest]}
            ratios = {"single_s": single_s, "speedup": single_s / times_s[fastest], "single_wins": fastest == SINGLE}
            rows.append({**point, **ratios, **times_s})
    return pd.DataFrame(rows)


def crossings(frame: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Per delay and method the rate (bit/s) from which on it beats one device, between points of the grid by straight
    lines in the logarithms; NaN where it never does, 0 where it does everywhere on the grid."""
    rows = []
    for delay_s, points in frame.groupby("delay_s"):
        points = points.sort_values("rate_bit_s")
        for method in methods:
            if method != SINGLE:
                gain = np.log(points["single_s"].to_numpy(float) / points[method].to_numpy(float))
                rows.append((delay_s, method, _crossing(np.log(points["rate_bit_s"].to_numpy(float)), gain)))
    return pd.DataFrame(rows, columns=["delay_s", "method", "rate_bit_s"])


def _crossing(logs: np.ndarray, gain: np.ndarray) -> float:
    """Where the gain becomes positive for good."""
    loses = np.flatnonzero(gain <= 0)
    if not len(loses):
        return 0.0
    last = loses[-1]
    if last + 1 == len(gain):
        return float("nan")
    share = -gain[last] / (gain[last + 1] - gain[last])
    return float(np.exp(logs[last] + share * (logs[last + 1] - logs[last])))


def map_figure(frame: pd.DataFrame) -> Figure:
    """The map as a matplotlib figure: a colour per fastest method, hatched where single wins, speedups written in."""
    from matplotlib.figure import Figure  # not pyplot: nothing global, no window

    rates, delays = sorted(frame["rate_bit_s"].unique()), sorted(frame["delay_s"].unique())
    figure = Figure(figsize=(1.6 + 0.75 * len(rates), 2.0 + 0.45 * len(delays)), layout="constrained")
    axes = figure.add_subplot()
    shades = colours(frame)
    for row in frame.itertuples():
        corner = rates.index(row.rate_bit_s) - 0.5, delays.index(row.delay_s) - 0.5
        hatch = "///" if row.single_wins else None
        axes.add_patch(_square(corner, shades[str(row.fastest)], hatch))
        text = "1" if row.single_wins else f"{row.speedup:.2g}"
        axes.text(corner[0] + 0.5, corner[1] + 0.5, text, ha="center", va="center", fontsize=8, bbox=_PAPER)
    axes.set_xlim(-0.5, len(rates) - 0.5)
    axes.set_ylim(-0.5, len(delays) - 0.5)
    axes.set_xticks(range(len(rates)), [show_rate(float(rate)) for rate in rates], rotation=45, ha="right")
    axes.set_yticks(range(len(delays)), [show_duration(float(delay)) for delay in delays])
    axes.set_xlabel("rate of every link")
    axes.set_ylabel("delay of every link, one way")
    axes.set_title("Fastest method and its speedup over one device (hatched: one device wins)", fontsize=10)
    handles = [_square((0, 0), colour, "///" if name == SINGLE else None) for name, colour in shades.items()]
    figure.legend(handles, list(shades), loc="outside lower center", ncols=4, frameon=False)
    return figure


_PAPER = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def colours(frame: pd.DataFrame) -> dict[str, str]:
    """A colour for every method that is fastest somewhere; the same in every map of these methods."""
    known = {"rate_bit_s", "delay_s", "fastest", "latency_s", "single_s", "speedup", "single_wins", SINGLE}
    methods = [str(name) for name in frame.columns if name not in known]
    shown = [name for name in methods if (frame["fastest"] == name).any()]
    found = {name: _COLOURS[methods.index(name) % len(_COLOURS)] for name in shown}
    return found | ({SINGLE: _GREY} if frame["single_wins"].any() else {})


def _square(corner: tuple[float, float], colour: str, hatch: str | None):  # type: ignore[no-untyped-def]
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", hatch=hatch)

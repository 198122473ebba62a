"""Run folders -> tidy frames and facts: raw records alone (never summary.json), nothing drawn. Pure but for reading.

requests, devices: see `testbed.page.measured`.
methods: a row per setting and label: n, median_s, low_s, high_s, speedup, speedup_low, speedup_high, medians of the
    bytes, the worst fidelity, sums of tokens lost and due, what the outputs are worth (here), and of new_tokens (how
    many) medians and intervals of ttft_s and token_s; None or NaN where it cannot be said. A method that failed counts
    with no request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from testbed import evidence, store, topology
from testbed.differences import INVALID
from testbed.here import here
from testbed.notes import Note, notes
from testbed.page import apart, setting
from testbed.page.measured import BYTES, FIDELITY, LOST, SCORE, measured
from testbed.page.setting import Network
from testbed.predict.against import Cell
from testbed.predict.counted import counted
from testbed.statistics import paired_ratio, spread
from testbed.store import RunData
from testbed.summary import summary
from testbed.sweep import folder

METHODS = [
    "setting", "method", "label", "status", "error", "equals_single", "n", "median_s", "low_s", "high_s",
    "p95_s", "speedup", "speedup_low", "speedup_high", "matches_formula", *BYTES, *FIDELITY, *LOST, "here",
    "new_tokens", *(f"{key}{end}_s" for key in ("ttft", "token") for end in ("", "_low", "_high")),
]  # fmt: skip
Row = dict[str, Any]
SHOWN = 3  # letters of runs that a setting names


@dataclass(frozen=True)
class Run:
    """One run folder. topology: None where run.yaml cannot be read any more, then `unread` says why."""

    letter: str
    data: RunData
    summary: Mapping[str, Any]
    notes: tuple[Note, ...]
    topology: topology.Topology | None
    unread: str
    setting: int

    @property
    def verdict(self) -> str:
        """Of its network, see `testbed.evidence`."""
        return str(self.summary["network"]["verdict"])


@dataclass(frozen=True)
class Setting:
    """Runs whose requests count together: one run, or those of sweeps by the same code that differ in nothing but the
    seed. No two settings have the same axes."""

    index: int
    axes: Mapping[str, str]
    network: Network
    runs: tuple[str, ...]
    verdict: str
    title: str

    @property
    def replayed(self) -> str | None:
        """ "compute replayed from NAME", None of real compute."""
        return self.axes["compute"] if self.axes["compute"].startswith(setting.REPLAYED) else None

    @property
    def valid(self) -> bool:
        """Whether its figures are of the declared network: of others no sentence is made."""
        return self.verdict not in INVALID


@dataclass(frozen=True)
class Study:
    """All that a page tells. failures: cells of sweeps that did not run, a line each; cells: predictions of methods,
    also of what a sweep did not measure."""

    runs: tuple[Run, ...]
    settings: tuple[Setting, ...]
    requests: pd.DataFrame
    devices: pd.DataFrame
    methods: pd.DataFrame
    failures: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()

    def with_cells(self, cells: Sequence[Cell]) -> Study:
        """The same with predictions."""
        return replace(self, cells=tuple(cells))


def gather(paths: Sequence[Path]) -> Study:
    """Read run folders and sweep folders. Raises StoreError for what is neither, damaged, or holds no run."""
    found, failures = _folders(paths)
    keys = [(origin, setting.alike(run)) for origin, run in found]
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    letters = setting.letters()
    runs = [_run(next(letters), run, order[key]) for key, (_, run) in zip(keys, found, strict=True)]
    settings = _settings(runs)
    requests, devices = measured((run.letter, run.setting, run.data) for run in runs)
    methods = pd.DataFrame(_methods(settings, runs, requests), columns=METHODS)
    return Study(tuple(runs), settings, requests, devices, methods, tuple(failures))


def labelled(study: Study) -> list[tuple[str, str]]:
    """(method, label) of all that was run, then of what was only predicted."""
    run = list(study.methods[["method", "label"]].drop_duplicates().itertuples(index=False, name=None))
    return list(dict.fromkeys([*run, *((cell.spec.method, cell.spec.label) for cell in study.cells)]))


def of(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Rows in which these columns have these values."""
    keep = pd.Series(True, index=frame.index)
    for column, value in values.items():
        keep &= frame[column] == value
    return frame[keep]


def records(frame: pd.DataFrame) -> list[Row]:
    """A frame as plain rows of Python's own types, None for what is not known."""
    return [{str(key): plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def plain(value: Any) -> Any:
    """A number of numpy or pandas as one of Python, None for NaN."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _folders(paths: Sequence[Path]) -> tuple[list[tuple[str, RunData]], list[str]]:
    """(where it came from, run): those of sweeps by the same code share their origin; and cells that failed."""
    found: list[tuple[str, RunData]] = []
    failures: list[str] = []
    for path in {path.resolve(): path for path in paths}.values():  # what is named twice counts once
        if folder.is_sweep(path):
            sweep = counted(path)
            if not sweep.runs:
                failures.append(f"{path}: no finished block yet")
            found += [(f"sweeps of code {sweep.code}", run) for run in sweep.runs]
            failures += sweep.failed
        else:
            found.append((str(path), store.load(path)))
    if not found:
        raise store.StoreError(f"{paths[0]}: the sweep has no finished block yet; there is nothing to report")
    return found, failures


def _run(letter: str, data: RunData, index: int) -> Run:
    described = summary(data)
    try:
        drawn, unread = topology.load(data.path / store.TOPOLOGY), ""
    except topology.TopologyError as error:
        drawn, unread = None, error.problems[0]
    return Run(letter, data, described, tuple(notes(described, data)), drawn, unread, index)


def _settings(runs: Sequence[Run]) -> tuple[Setting, ...]:
    """One per index, titled by the axes in which they differ."""
    groups: dict[int, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.setting, []).append(run)
    found = {index: setting.axes(group[0].data, group[0].topology) for index, group in groups.items()}
    places = {index: (setting.group_of(axes), _rate(groups[index][0], axes)) for index, axes in found.items()}
    also = apart.told(places, lambda index: _facts(groups[index]))
    found = {index: {**axes, apart.ALSO: also[index]} for index, axes in found.items()}
    every = dict.fromkeys(axis for axes in found.values() for axis in axes)
    differ = [axis for axis in every if len({axes.get(axis) for axes in found.values()}) > 1]
    alone = len(runs) == 1
    return tuple(_setting(index, group, found[index], differ, alone) for index, group in sorted(groups.items()))


def _rate(run: Run, axes: Mapping[str, str]) -> object:
    """Where it stands among settings that differ in their rate alone."""
    rate_bit_s = None if run.topology is None else setting.network(run.topology).rate_bit_s
    return axes.get("rate") if rate_bit_s is None else rate_bit_s


def _facts(runs: Sequence[Run]) -> apart.Facts:
    return apart.common([apart.facts(run.data, run.topology) for run in runs])


def _setting(index: int, group: Sequence[Run], axes: Mapping[str, str], differ: Sequence[str], alone: bool) -> Setting:
    names = [run.letter for run in group]
    which = ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    words = [axes[axis] for axis in differ if axes.get(axis, "none") != "none"]
    known = [run.verdict for run in group if run.verdict in evidence.ORDER]
    verdict = max(known, key=evidence.ORDER.index) if known else group[0].verdict
    marked = {"wrong": "NOT VALID", "degraded": "DEGRADED", "unverified": "NOT VERIFIED"}.get(verdict)
    words = words or [str(group[0].data.topology["name"])]
    title = " · ".join([*([] if alone else [which]), *words, *([marked] if marked else [])])
    drawn = group[0].topology
    net = setting.network(drawn) if drawn else Network("unknown", None, None)
    return Setting(index, axes, net, tuple(names), verdict, title)


def _methods(settings: Sequence[Setting], runs: Sequence[Run], requests: pd.DataFrame) -> list[dict[str, Any]]:
    found = []
    for one in settings:
        entries = [entry for run in runs if run.setting == one.index for entry in run.summary["methods"]]
        good = {run.letter: {e["label"] for e in run.summary["methods"] if e["status"] == "ok"} for run in runs}
        here = of(requests, setting=one.index)
        ended_well = [label in good[run] for run, label in zip(here["run"], here["label"], strict=True)]
        here = here[pd.Series(ended_well, index=here.index, dtype=bool)]
        single = _latencies(here[here["method"] == "single"])
        for label in dict.fromkeys(entry["label"] for entry in entries):
            own = [entry for entry in entries if entry["label"] == label]
            found.append({"setting": one.index, **_method(own, here[here["label"] == label], single)})
    return found


def _method(entries: Sequence[Mapping[str, Any]], rows: pd.DataFrame, single: Mapping[Any, float]) -> dict[str, Any]:
    latencies = _latencies(rows)
    latency = spread(list(latencies.values()))
    ratio = paired_ratio(single, latencies)
    bad = [entry for entry in entries if entry["status"] != "ok"]
    matches = [entry["payload_matches_formula"] for entry in entries]
    return {
        **{key: entries[0][key] for key in ("method", "label", "equals_single")},
        "status": (bad or entries)[0]["status"],
        "error": next((entry["error"] for entry in bad), None),
        "n": len(rows),
        "median_s": latency["median"],
        "p95_s": latency["p95"],
        **dict(zip(("low_s", "high_s"), latency["ci95"], strict=True)),
        "speedup": ratio["ratio"],
        **dict(zip(("speedup_low", "speedup_high"), ratio["ci95"], strict=True)),
        "matches_formula": False if False in matches else None if None in matches else True,
        **{key: _all_of(rows[key], "median") for key in BYTES},
        **{key: _all_of(rows[key], how) for key, how in FIDELITY.items()},
        **{key: _all_of(rows[key], "sum") for key in LOST},
        "here": here([{"score": row if row["metric"] else None} for row in records(rows[list(SCORE)])]),
        **_spoken(rows),
    }


def _spoken(rows: pd.DataFrame) -> dict[str, float | None]:
    """Of requests that generate tokens: how many, and medians of both times with their intervals."""
    found = {"new_tokens": _all_of(rows["new_tokens"], "max")}
    for key in ("ttft", "token"):
        times = spread(pd.to_numeric(rows[f"{key}_s"]).dropna().tolist())
        found |= {f"{key}_s": times["median"]}
        found |= dict(zip((f"{key}_low_s", f"{key}_high_s"), times["ci95"], strict=True))
    return found


def _latencies(rows: pd.DataFrame) -> dict[tuple[str, int], float]:
    """{(run, request): seconds}: the same request of two methods is a pair."""
    return {(row["run"], row["request"]): row["latency_s"] for row in records(rows)}


def _all_of(values: pd.Series, how: str) -> float | None:
    """The values as one, None where any is missing."""
    known = pd.to_numeric(values)
    return float(known.agg(how)) if len(known) and known.notna().all() else None

"""Runs as one table for other programs: `testbed compare RUN... --export PATH`. A row per run and method.

.csv and .parquet have every column of `rows`, numbers as in summary.json (seconds, bytes, bit/s); .tex and .md have
those that a paper shows, rounded, intervals of 95 % beside, and the repetitions of a sweep's point in one row. What
cannot be said is empty.
pandas does the writing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import RuntimeFault
from testbed import differences, disk, pairing, units
from testbed.pairing import Part, Point, Side
from testbed.tables import METRICS, metric

if TYPE_CHECKING:
    from pandas import DataFrame

TIMES = {
    "compute_s": "compute_s", "code_s": "code_s", "wait_s": "exchange_wait_s", "scatter_s": "scatter_s",
    "gather_s": "gather_s",
}  # fmt: skip
LANE: Mapping[str, tuple[str, Callable[[object], float]]] = {
    "rate_bit_s": ("rate", units.parse_rate),
    "delay_s": ("delay", units.parse_duration),
    "loss": ("loss", units.parse_fraction),
}


WHOLE = ("tokens", "seed", "hosts", "n", "speedup_n", "vs_a_n", "here_n", "task_n")
TEXTS = (
    "run", "name", "folder", "started_utc", "commit", "model", "weights", "compute", "profile", "backend", "shaper",
    "verdict", "label", "method", "options", "status", "here_metric",
    "task_metric",
)  # fmt: skip


class BadExport(RuntimeFault):
    """A file that cannot be exported to; the text is one line that says what is allowed."""


def check(path: Path, force: bool) -> None:
    """Raises BadExport if there is no such format, or a file that nobody said to replace."""
    if path.suffix.lower() not in FORMATS:
        raise BadExport(f"--export {path}: its name must end in one of {', '.join(FORMATS)}")
    if path.is_dir():
        raise BadExport(f"--export {path}: a folder; give the name of a file")
    if path.exists() and not force:
        raise BadExport(f"--export {path}: there is such a file; --force replaces it")
    if not path.absolute().parent.is_dir():
        raise BadExport(f"--export {path}: there is no folder {path.parent}")


def write(sides: Sequence[Side], path: Path) -> None:
    """Write the rows in the format of the file's suffix; readers see the old file or the new. Raises BadExport."""
    import pandas

    draft = path.with_name(f".{path.name}.new")
    try:
        kind = path.suffix.lower()
        table = pandas.DataFrame(rows(sides, together=kind in PAPER))
        FORMATS[kind](table.astype({name: _type(name) for name in table.columns}), draft)
        disk.give(draft)
        draft.replace(path)
    except (OSError, ImportError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadExport(f"--export {path}: cannot be written: {why}") from None
    finally:
        draft.unlink(missing_ok=True)


def rows(sides: Sequence[Side], together: bool = False) -> list[dict[str, Any]]:
    """One dict of plain values per run and method, all with the same keys; `together`: per point and method."""
    axes = list(dict.fromkeys(axis for side in sides for point in side.points for axis, _ in point))
    found = []
    for side in sides:
        for point, parts in side.points.items():
            for some in [parts] if together else [(part,) for part in parts]:
                summary = pairing.summary_of(some)
                common = {**_run(side, some[0]), **_axes(axes, point), **_network(some[0], summary)}
                found += [
                    {**common, **_method(method), **_against(sides, point, some, method)}
                    for method in summary["methods"]
                ]
    return found


def _type(column: str) -> str:
    """The same for every export, also where a column is empty: tables of several can be joined."""
    if column == "vs_a_paired":
        return "boolean"
    if column in WHOLE:
        return "Int64"
    return "string" if column in TEXTS or column.startswith("at ") else "Float64"


def _run(side: Side, part: Part) -> dict[str, Any]:
    run, asked = part.run, part.run.topology["run"]
    return {
        "run": side.letter,
        "name": run.topology["name"],
        "folder": str(run.path),
        "started_utc": run.manifest.get("started_utc"),
        "commit": (run.manifest.get("git") or {}).get("commit"),
        **{key: asked.get(key) for key in ("model", "weights", "tokens", "seed")},
        "compute": run.manifest.get("compute", "real"),
        "profile": (run.manifest.get("profile") or {}).get("name"),
        "hosts": len(run.topology.get("hosts") or ()),
    }


def _axes(axes: Sequence[str], point: Point) -> dict[str, Any]:
    """Where in a sweep's grid: a column for each axis, by its name in the file."""
    here = dict(point)
    return {f"at {axis}": here.get(axis) for axis in axes}


def _network(part: Part, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Rate, delay and loss where all links have the same, both ways and all the time."""
    run = part.run
    lanes = [lane for link in differences.links(run.topology) for lane in _lanes(link)]
    return {
        "backend": run.topology.get("backend"),
        "shaper": run.manifest.get("shaper"),
        **{column: _uniform(lanes, *how) for column, how in LANE.items()},
        "verdict": summary["network"]["verdict"],
    }


def _lanes(link: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [{**link, **(link.get(way) or {})} for way in ("up", "down")]


def _uniform(lanes: Sequence[Mapping[str, Any]], key: str, parse: Callable[[object], float]) -> float | None:
    """The value of all lanes, None where they differ, change with time, or are more than a number."""
    values = {str(lane.get(key)) for lane in lanes}
    if len(values) != 1 or any("trace" in lane for lane in lanes):
        return None
    try:
        return parse(values.pop())
    except ValueError:
        return None


def _method(method: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one entry of summary.json."""
    seconds, faster = method["latency_s"], method["speedup"]
    found = {
        "label": method["label"],
        "method": method["method"],
        "options": json.dumps(method["options"] or {}, sort_keys=True),
        "status": method["status"],
        "n": method["requests"],
        "latency_median_s": seconds["median"],
        "latency_median_low_s": seconds["ci95"][0],
        "latency_median_high_s": seconds["ci95"][1],
        "latency_mean_s": seconds["mean"],
        "latency_mean_low_s": seconds["mean_ci95"][0],
        "latency_mean_high_s": seconds["mean_ci95"][1],
        **{f"latency_{key}_s": seconds[key] for key in ("min", "p95", "p99")},
        **_ratio("speedup", faster),
        **{column: method[key] for column, key in TIMES.items()},
    }
    for key in ("payload_bytes", "wire_bytes", "messages"):
        known = method[key] if method[key] and None not in method[key] else []
        found |= {f"{key}_most": max(known, default=None), f"{key}_sum": sum(known) if known else None}
    return {**found, **method["fidelity"], **_more(method)}


def _more(method: Mapping[str, Any]) -> dict[str, Any]:
    """Of new tokens both times and what was kept for them; what was not there in time; what the outputs are worth."""
    spoken, lost, here = (method[key] or {} for key in ("generation", "lost", "here"))
    found = {key: spoken.get(key) for key in ("kept_bytes", "token_agreement")}
    for name in ("ttft", "token"):
        time = spoken.get(f"{name}_s", {"median": None, "ci95": [None, None]})
        keys = (f"{name}_s", f"{name}_low_s", f"{name}_high_s")
        found |= dict(zip(keys, (time["median"], *time["ci95"]), strict=True))
    worth = (here.get("value"), *here.get("ci95", [None, None]), here.get("single"), here.get("n"))
    found |= dict(zip(("here_value", "here_low", "here_high", "here_single", "here_n"), worth, strict=True))
    prepared = method["task"] or {}
    found |= {f"task_{key}": prepared.get(key) for key in ("original", "single", "this", "n", "metric")}
    return {**found, "lost_share": lost.get("share"), "here_metric": here.get("metric")}


def _against(sides: Sequence[Side], point: Point, parts: Sequence[Part], method: Mapping[str, Any]) -> dict[str, Any]:
    """How many times as fast as the first run."""
    first = sides[0].points.get(point)
    ratio = pairing.ratio(first, parts, method["label"]) if first and method["status"] == "ok" else None
    none = {"ratio": None, "ci95": [None, None], "n": 0, "paired": None}
    return {**_ratio("vs_a", ratio or none), "vs_a_paired": (ratio or none)["paired"]}


def _ratio(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    low, high = found["ci95"]
    return {name: found["ratio"], f"{name}_low": low, f"{name}_high": high, f"{name}_n": found["n"]}


def _paper(table: DataFrame) -> DataFrame:
    """What a paper shows, as text: three digits and an interval in one cell."""
    import pandas

    columns: dict[str, list[str]] = {
        "run": [str(value) for value in table["run"]],
        **{name.removeprefix("at "): _texts(table[name]) for name in table.columns if name.startswith("at ")},
        "method": _texts(table["label"]),
        "n": _texts(table["n"]),
        **{f"{name} (ms)": _interval(table, f"latency_{name}", "_s", 1e3) for name in ("median", "mean")},
        "p95 (ms)": [_number(value, 1e3) for value in table["latency_p95_s"]],
        "vs single": _interval(table, "speedup"),
        "vs A": _interval(table, "vs_a"),
        "sent (kB)": [_number(value, 1e-3) for value in table["payload_bytes_most"]],
        "on wire (kB)": [_number(value, 1e-3) for value in table["wire_bytes_most"]],
        "TTFT (ms)": _interval(table, "ttft", "_s", 1e3),
        "per token (ms)": _interval(table, "token", "_s", 1e3),
        "not in time (%)": [_number(value, 100) for value in table["lost_share"]],
        "task": [_task(*row) for row in zip(table["here_metric"], table["here_value"], strict=True)],
        "cosine": ["" if _missing(value) else f"{value:.4f}" for value in table["cosine"]],
        "network": [_network_words(row) for _, row in table.iterrows()],
    }
    if len(set(columns["run"])) == 1:
        del columns["vs A"]
    kept = {name: texts for name, texts in columns.items() if any(texts)}
    return pandas.DataFrame(kept)


def _task(name: Any, value: Any) -> str:
    return "" if _missing(value) else f"{METRICS[name]} {metric(name, value)}"


def _network_words(row: Any) -> str:
    """The verdict, and that compute was replayed: a figure is not to be read without."""
    replayed = f", compute replayed from {row['profile']}" if row["compute"] == "replayed" else ""
    status = "" if row["status"] == "ok" else f", {row['status']}"
    return f"{row['verdict']}{replayed}{status}"


def _texts(values: Any) -> list[str]:
    return ["" if _missing(value) else str(value) for value in values]


def _interval(table: DataFrame, name: str, unit: str = "", scale: float = 1) -> list[str]:
    """ "1.99 [1.95, 2.03]"; of what is held against itself only "1.00"."""
    found = []
    columns = (table[f"{name}{end}{unit}"] for end in ("", "_low", "_high"))
    for value, *ends in zip(*columns, strict=True):
        words = _number(value, scale)
        if not any(map(_missing, ends)) and not value == ends[0] == ends[1] == 1:
            words += f" [{_number(ends[0], scale)}, {_number(ends[1], scale)}]"
        found.append(words)
    return found


def _number(value: Any, scale: float) -> str:
    """0.0484 at 1000 as "48.4": three digits, never a power of ten."""
    if _missing(value):
        return ""
    scaled = float(value) * scale
    places = 2 - math.floor(math.log10(abs(scaled))) if scaled else 0
    return f"{round(scaled, places):.{max(places, 0)}f}"


def _missing(value: Any) -> bool:
    import pandas

    return bool(pandas.isna(value))


def _csv(table: DataFrame, path: Path) -> None:
    table.to_csv(path, index=False)


def _parquet(table: DataFrame, path: Path) -> None:
    table.to_parquet(path, index=False)


def _latex(table: DataFrame, path: Path) -> None:
    shown = _paper(table)
    numbers = {"n", "median (ms)", "mean (ms)", "p95 (ms)", "vs single", "vs A", "sent (kB)", "on wire (kB)", "cosine"}
    layout = "".join("r" if name in numbers else "l" for name in shown.columns)
    path.write_text(shown.to_latex(index=False, escape=True, column_format=layout), encoding="utf-8")


def _markdown(table: DataFrame, path: Path) -> None:
    """A "|" in a cell would end it."""
    shown = _paper(table).map(lambda text: text.replace("|", "\\|"))
    path.write_text(shown.to_markdown(index=False, disable_numparse=True) + "\n", encoding="utf-8")


PAPER = (".tex", ".md")
FORMATS: Mapping[str, Callable[[DataFrame, Path], None]] = {
    ".csv": _csv, ".parquet": _parquet, ".tex": _latex, ".md": _markdown,
}  # fmt: skip

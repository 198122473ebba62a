"""summary.json and links.json -> the tables that the user sees. Reads data, never live objects.

`testbed compare RUN` prints the report of a run that is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from testbed.notes import Note
from testbed.units import show_duration, show_fraction, show_rate

NONE = "-"


def render(
    summary: Mapping[str, Any], links: Sequence[Mapping[str, Any]], notes: Sequence[Note], console: Console
) -> None:
    """Print what a run found: untrained weights first, then links, methods and notes. Fits 80 columns."""
    if summary["untrained"]:
        console.print(Text("Untrained (random) weights: times and bytes hold, results mean nothing.", "bold yellow"))
    if links:
        console.print(links_table(links))
    console.print(methods_table(summary["methods"]))
    for line in reasons(summary["methods"]):
        console.print(Text(line, "red"))
    render_notes(notes, console)


def methods_table(methods: Sequence[Mapping[str, Any]]) -> Table:
    """One row per method; a failed or skipped one says so in place of a latency, see `reasons`."""
    table = open_table("method", "latency\n[95 % interval]", "compute", "waiting", "sent per\ndevice", "on\nwire")
    table.add_column("against\nsingle", justify="right")
    table.add_column("fidelity")
    for method in methods:
        if method["status"] == "ok":
            table.add_row(*_cells(method))
        else:
            table.add_row(method["label"], Text(method["status"], "bold red"), *costs(method), NONE, NONE)
    return table


def reasons(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each method that did not end well."""
    bad = [method for method in methods if method["status"] != "ok"]
    return [f"{m['label']} {m['status']}: {m['error'] or 'no reason was recorded'}" for m in bad]


def links_table(links: Sequence[Mapping[str, Any]]) -> Table:
    """One row per direction of a link: every quantity as measured, of what was declared, and the verdict."""
    names = [name for name in dict.fromkeys(key for row in links for key in row.get("measured") or {})]
    table = open_table("link", *(_title(name) for name in names))
    table.add_column("verdict")
    for row in links:
        declared, measured = row.get("declared") or {}, row.get("measured") or {}
        cells = [_against(name, measured.get(name), declared.get(name)) for name in names]
        good = row.get("verdict") == "ok"
        verdict = Text(str(row.get("verdict")), "green" if good else "bold red")
        if not good and row.get("why"):
            verdict.append(f": {row['why']}")
        table.add_row(f"{row['from']} > {row['to']}", *cells, verdict)
    return table


def render_notes(notes: Sequence[Note], console: Console) -> None:
    """Print each note as three lines."""
    for note in notes:
        console.print(Text.assemble(("Note: ", "bold yellow"), note.seen))
        console.print(Padding(Text(f"likely cause: {note.cause}\nwhat to do: {note.advice}"), (0, 0, 0, 6)))


def duration(seconds: float | None) -> str:
    """0.12345 -> "123 ms": three digits, for tables."""
    return NONE if seconds is None else show_duration(_digits(seconds))


def size(size_bytes: float | None) -> str:
    """602112 -> "602 kB", in powers of ten like rates; whole bytes under 10 kB."""
    if size_bytes is None:
        return NONE
    if size_bytes < 10_000:
        return f"{size_bytes:.0f} B"
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size_bytes >= u)
    return f"{_digits(size_bytes / unit):g} {name}"


def latency(method: Mapping[str, Any]) -> str:
    """Median, number of requests, and the interval below."""
    spread = method["latency_s"]
    low, high = spread["ci95"]
    first = f"{duration(spread['median'])} n={method['requests']}"
    return first if low is None else f"{first}\n[{duration(low)}, {duration(high)}]"


def fidelity(method: Mapping[str, Any]) -> str:
    """Largest error of a method that equals single; else cosine, and top-1 agreement or KL divergence."""
    found = method["fidelity"]
    if found["max_abs_error"] is None:
        return "not finite" if method["requests"] else NONE
    if method["equals_single"]:
        return f"err {found['max_abs_error']:.1e}"
    words = [] if found["cosine"] is None else [f"cos {found['cosine']:.4f}"]
    if found["top1_agreement"] is not None:
        words.append(f"top-1 {found['top1_agreement']:.0%}")
    elif found["kl"] is not None:
        words.append(f"KL {found['kl']:.2g}")
    return "\n".join(words) or f"err {found['max_abs_error']:.1e}"


def _cells(method: Mapping[str, Any]) -> list[str]:
    """A row of a good method."""
    speedup = method["speedup_over_single"]
    against = NONE if speedup is None else f"{_digits(speedup):g}x"
    return [method["label"], latency(method), *costs(method), against, fidelity(method)]


def costs(method: Mapping[str, Any]) -> list[str]:
    """Compute, waiting, and the bytes of the device that sent most."""
    wire = [count for count in method["wire_bytes"] if count is not None]
    return [
        duration(method["compute_s"]),
        duration(method["exchange_wait_s"]),
        size(max(method["payload_bytes"], default=None)),
        size(max(wire, default=None)),
    ]


def open_table(first: str, *numbers: str) -> Table:
    """An open table: a name, then right-aligned numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _digits(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def _title(name: str) -> str:
    """ "rate_bit_s" -> "rate": the cells carry the unit."""
    for unit in ("_bit_s", "_bytes", "_s"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def _quantity(name: str, value: Any) -> str:
    """A number of links.json in the unit that its name says."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_quantity(name, item)}" for key, item in value.items())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NONE if value is None else str(value)
    if name.endswith("_bit_s"):
        return show_rate(_digits(value))
    if name.endswith("_bytes"):
        return size(value)
    if name.endswith("_s"):
        return duration(value)
    return show_fraction(_digits(value)) if name == "loss" else f"{_digits(value):g}"


def _against(name: str, measured: Any, declared: Any) -> str:
    """ "9.4 Mbit/s of 10 Mbit/s"."""
    words = _quantity(name, measured)
    return words if declared is None else f"{words}\nof {_quantity(name, declared)}"

"""summary.json and links.json -> the tables that the user sees. Reads data, never live objects.

`testbed compare RUN` prints the report of a run that is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from rich import box
from rich.console import Console
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
        render_links(links, console)
        console.print()
    console.print(methods_table(summary["methods"]))
    for line in reasons(summary["methods"]):
        console.print(Text(line, "red"))
    if notes:
        console.print()
        render_notes(notes, console)


def methods_table(methods: Sequence[Mapping[str, Any]]) -> Table:
    """One row per method; a failed or skipped one says so in place of a latency, see `reasons`."""
    table = open_table(
        "method", "n", "latency\n95 % CI", "compute", "waiting", "input\nresult", "sent\non wire", "vs\nsingle"
    )
    table.add_column("fidelity", no_wrap=True)
    for method in methods:
        if method["status"] == "ok":
            table.add_row(*_cells(method))
        else:
            count = str(method["requests"])
            table.add_row(method["label"], count, Text(method["status"], "bold red"), *costs(method), NONE, NONE)
    return table


def reasons(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why methods did not end well: a line for those of the same reason."""
    labels: dict[str, list[str]] = {}
    for method in methods:
        if method["status"] != "ok":
            why = f"{method['status']}: {method['error'] or 'no reason was recorded'}"
            labels.setdefault(why, []).append(method["label"])
    return [f"{', '.join(names)} {why}" for why, names in labels.items()]


def fan_line(links: Sequence[Mapping[str, Any]]) -> str | None:
    """One line for the probes of two transfers at once, which show each direction of a link alone; None without any."""
    fans = [row for row in links if is_fan(row)]
    if not fans:
        return None
    due, measured = ([duration(row[key]["two_at_once_s"]) for row in fans] for key in ("expected", "measured"))
    return (
        f"two transfers at once, {len(fans)} directions: {', '.join(dict.fromkeys(measured))}, "
        f"due {', '.join(dict.fromkeys(due))}: ok"
    )


def is_fan(row: Mapping[str, Any]) -> bool:
    """A good probe of two transfers at once."""
    return row.get("verdict") == "ok" and "two_at_once_s" in (row.get("measured") or {})


def links_table(links: Sequence[Mapping[str, Any]]) -> Table:
    """One row per probe of a link, below what the declared rate makes due; what is due is not repeated."""
    flat = [(row, _flat(row.get("expected") or row.get("declared")), _flat(row.get("measured"))) for row in links]
    names = list(dict.fromkeys(name for _, due, _ in flat for name in due if due[name] is not None))
    names = [name for name in names if any(name in measured for _, _, measured in flat)]
    # A message that fits in the bucket is due at once: measured and judged, but nothing to look at.
    names = [
        name for name in names if not (name.startswith("message") and all(not due.get(name) for _, due, _ in flat))
    ]
    table = open_table("link", *(_title(name) for name in names))
    table.add_column("verdict", no_wrap=True)
    shown: dict[str, Any] | None = None
    for row, due, measured in flat:
        if due != shown:
            table.add_row("due", *(_quantity(name, due.get(name)) for name in names), style="dim")
            shown = due
        verdict = Text(str(row.get("verdict")), "green" if row.get("verdict") == "ok" else "bold red")
        link = f"{row['from']} > {row['to']}" + (" again" if row.get("attempt", 1) > 1 else "")
        table.add_row(link, *(_quantity(name, measured.get(name)) for name in names), verdict)
    return table


def render_links(links: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the table of links and a line for each that is not as declared."""
    console.print(links_table([row for row in links if not is_fan(row)]))
    if fans := fan_line(links):
        console.print(fans, style="dim")
    for row in links:
        if row.get("verdict") != "ok":
            console.print(Text(f"{row['from']} > {row['to']} {row.get('verdict')}: {row.get('why')}", "red"))


def render_notes(notes: Sequence[Note], console: Console) -> None:
    """Print each note as what was seen, and indented its likely cause and what to do."""
    for note in notes:
        console.print(Text.assemble(("Note: ", "bold yellow"), (note.seen, "bold")))
        line = f"{note.cause}. What to do: {note.advice}."
        console.print(Text(fill(line, console.width - 1, initial_indent="      ", subsequent_indent="      ")))


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
    """Median, below it the interval: "61.5 ms" over "61.2-61.9 ms"."""
    middle, (low, high) = method["latency_s"]["median"], method["latency_s"]["ci95"]
    first = duration(middle)
    if low is None:
        return first
    unit = duration(high).split()[1]
    scale = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    return f"{first}\n{_digits(low * scale):g}-{_digits(high * scale):g} {unit}"


def against(speedup: float | None) -> str:
    """How many times as fast: "3.41x", "0.06x"."""
    return NONE if speedup is None else f"{speedup:.2f}x" if speedup < 10 else f"{_digits(speedup):g}x"


def error(value: float) -> str:
    """1.23e-06 -> "1.2e-6"."""
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}e{int(power)}" if value else "0"


def fidelity(method: Mapping[str, Any]) -> str:
    """Largest error of a method that equals single; else cosine, and top-1 agreement or KL divergence."""
    found = method["fidelity"]
    if found["max_abs_error"] is None:
        return "not finite" if method["requests"] else NONE
    if method["equals_single"]:
        return f"err {error(found['max_abs_error'])}"
    words = [] if found["cosine"] is None else [f"cos {found['cosine']:.4f}"]
    if found["top1_agreement"] is not None:
        words.append(f"top-1 {found['top1_agreement']:.0%}")
    elif found["kl"] is not None:
        words.append(f"KL {found['kl']:.2g}")
    return "\n".join(words) or f"err {error(found['max_abs_error'])}"


def _cells(method: Mapping[str, Any]) -> list[str]:
    """A row of a good method."""
    return [
        method["label"],
        str(method["requests"]),
        latency(method),
        *costs(method),
        against(method["speedup_over_single"]),
        fidelity(method),
    ]


def costs(method: Mapping[str, Any]) -> list[str]:
    """Compute, waiting, distribution of the input over return of the result, and the bytes of the device that sent
    most: payload between layers over all that left its interfaces."""
    wire = [count for count in method["wire_bytes"] if count is not None]
    sent = size(max(method["payload_bytes"], default=None))
    return [
        duration(method["compute_s"]),
        duration(method["exchange_wait_s"]),
        f"{duration(method['scatter_s'])}\n{duration(method['gather_s'])}",
        f"{sent}\n{size(max(wire))}" if wire else sent,
    ]


def open_table(first: str, *numbers: str) -> Table:
    """An open table: a name, then right-aligned numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column(first, min_width=10)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _digits(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def _flat(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """{"rtt_s": 1, "message_s": {"1000": 2}} -> {"rtt_s": 1, "message_s 1000": 2}."""
    flat: dict[str, Any] = {}
    for key, value in (values or {}).items():
        flat |= {f"{key} {k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def _title(name: str) -> str:
    """Column of links.json: "rtt_s" -> "rtt", "message_s 64000" -> "64 kB"; the cells carry the unit."""
    key, _, number = name.partition(" ")
    if number.isdecimal():
        return size(int(number))
    for unit in ("_bit_s", "_bytes", "_s"):
        key = key.removesuffix(unit)
    return f"{key.replace('_', ' ')} {number}".strip()


def _quantity(name: str, value: Any) -> str:
    """A number of links.json in the unit that its name says."""
    name = name.partition(" ")[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NONE if value is None else str(value)
    if name.endswith("_bit_s"):
        return show_rate(_digits(value))
    if name.endswith("_bytes"):
        return size(value)
    if name.endswith("_s"):
        return duration(value)
    return show_fraction(_digits(value)) if name == "loss" else f"{_digits(value):g}"

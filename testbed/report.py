"""summary.json and links.json -> the tables that the user sees. Reads data, never live objects.

`testbed compare RUN` prints the report of a run that is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from testbed.notes import Note
from testbed.units import show_duration, show_fraction, show_rate

NONE = "-"
CLOCK_NOISE_S = 1e-5  # under 10 us a row tells of the clock and of Python, not of a network
COMPUTE, WAITING, INPUT, SENT = "compute", "waiting", "input\nresult", "sent\non wire"
METHODS_GIVE_UP = (INPUT, SENT, COMPUTE, WAITING, "vs\nsingle", "n")
UNTRAINED = (
    "Untrained (random) weights: times, bytes and errors against single hold, but the "
    "results mean nothing; for an accuracy of anything use weights: pretrained."
)
LEGEND = (
    "input: handing it out, result: collecting it; sent: payload between layers of "
    "the device that sent most, on wire: all that left; -: none, or under 10 us"
)


def render(
    summary: Mapping[str, Any], links: Sequence[Mapping[str, Any]], notes: Sequence[Note], console: Console
) -> None:
    """Print what a run found: untrained weights first, then links, methods and notes. Fits 80 columns."""
    if summary["untrained"]:
        console.print(Text(UNTRAINED, "bold yellow"))
    if links:
        render_links(links, console)
        console.print()
    print_table(methods_table(summary["methods"]), console, METHODS_GIVE_UP)
    console.print(Text(LEGEND, "dim"))
    for line in reasons(summary["methods"]):
        console.print(Text(line, "red"))
    if notes:
        console.print()
    for note in notes:
        print_note(note, console)


def methods_table(methods: Sequence[Mapping[str, Any]]) -> Table:
    """One row per method; a failed or skipped one says so in place of a latency, see `reasons`."""
    table = open_table("method", "n", "latency\n95 % CI", COMPUTE, WAITING, INPUT, SENT, "vs\nsingle")
    table.add_column("fidelity", no_wrap=True)
    for method in methods:
        table.add_row(*cells(method))
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
    table = links_table([row for row in links if not is_fan(row)])
    print_table(table, console, [str(column.header) for column in table.columns[3:-1]])
    if fans := fan_line(links):
        console.print(fans, style="dim")
    for line in wrong_links(links):
        console.print(Text(line, "red"))


def wrong_links(links: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each link that is not as declared."""
    return [
        f"{row['from']} > {row['to']} {row.get('verdict')}: {row.get('why')}"
        for row in links
        if row.get("verdict") != "ok"
    ]


def print_note(note: Note, console: Console, which: str = "") -> None:
    """Print what was seen, its likely cause and what to do; `which` runs, where there are several."""
    title = f"Note{which and ' '}{which}: "
    cause, advice = (f"{words[0].upper()}{words[1:]}" for words in (note.cause, note.advice))
    print_wrapped(title, f"{note.seen}. {cause}. {advice}.", console)


def print_wrapped(title: str, words: str, console: Console) -> None:
    """Print `words` after a title, further lines indented; a word longer than a line (a path) stays whole."""
    indent = " " * min(len(title), 6)
    text = fill(title + words, console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    console.print(Text.assemble((text[: len(title)], "bold yellow"), text[len(title) :]), soft_wrap=True)


def print_table(table: Table, console: Console, give_up: Sequence[str]) -> None:
    """Print a table; in a window too narrow for it without the columns `give_up`, the first first, and say which."""
    hidden = []
    for title in give_up:
        if _narrowest(table, console) > console.width:
            hidden.append(" ".join(title.split()))
            table.columns = [column for column in table.columns if column.header != title]
    console.print(table)
    if hidden:
        console.print(Text(f"not shown in {console.width} columns: {', '.join(hidden)}", "dim"))


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
    """How many times as fast: "3.41x", "0.06x", "0.00049x", "2050x"."""
    if speedup is None:
        return NONE
    return (
        f"{speedup:.2f}x" if 0.01 <= speedup < 10 else f"{speedup:.2g}x" if speedup < 1 else f"{_digits(speedup):.9g}x"
    )


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


def cells(method: Mapping[str, Any]) -> list[str | Text]:
    """A row; of a method that did not end well its status and, as it did not do what was asked, no figure."""
    if method["status"] != "ok":
        return [method["label"], str(method["requests"]), Text(method["status"], "bold red"), *[NONE] * 6]
    return [
        method["label"],
        str(method["requests"]),
        latency(method),
        *costs(method),
        against(method["speedup_over_single"]),
        fidelity(method),
    ]


def costs(method: Mapping[str, Any]) -> list[str]:
    """Compute, waiting, input over result, and the bytes of the device that sent most, as `LEGEND` has it."""
    waiting, *ends = (
        NONE if seconds is None or seconds < CLOCK_NOISE_S or len(method["payload_bytes"]) == 1 else duration(seconds)
        for seconds in (method["exchange_wait_s"], method["scatter_s"], method["gather_s"])
    )
    wire = [count for count in method["wire_bytes"] if count is not None]
    sent = size(max(method["payload_bytes"], default=None))
    return [
        duration(method["compute_s"]),
        waiting,
        NONE if set(ends) == {NONE} else "\n".join(ends),
        f"{sent}\n{size(max(wire))}" if wire else sent,
    ]


def open_table(first: str, *numbers: str) -> Table:
    """An open table: a name, then right-aligned numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column(first, min_width=10)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _narrowest(table: Table, console: Console) -> int:
    """Columns of the window that a table needs to break no word."""
    wide = console.options.update_width(10_000)
    needed = len(table.columns) - 1
    for column in table.columns:
        cells = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
        widths = [cell.maximum if column.no_wrap else cell.minimum for cell in cells]
        needed += max(*widths, column.min_width or 0)
    return needed


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

"""Tables and numbers as the user sees them: open tables that fit their window, three digits, a unit."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from testbed.units import show_duration

NONE = "-"
METRICS = {"top1": "top-1", "perplexity": "perplexity", "cosine": "cosine"}  # of tasks, as people call them


def print_wrapped(title: str, words: str, console: Console, style: str = "bold yellow") -> None:
    """Print `words` after a title, further lines indented; a word longer than a line (a path) stays whole."""
    indent = " " * min(len(title), 6)
    text = fill(title + words, console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    console.print(Text.assemble((text[: len(title)], style), text[len(title) :]), soft_wrap=True)


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


def open_table(first: str, *numbers: str) -> Table:
    """An open table: a name, then right-aligned numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column(first, min_width=10)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def duration(seconds: float | None) -> str:
    """0.12345 -> "123 ms": three digits, for tables."""
    return NONE if seconds is None else show_duration(digits(seconds))


def size(size_bytes: float | None) -> str:
    """602112 -> "602 kB", in powers of ten like rates; whole bytes under 10 kB."""
    if size_bytes is None:
        return NONE
    if size_bytes < 10_000:
        return f"{size_bytes:.0f} B"
    size_bytes = digits(size_bytes)
    unit, name = next((u, n) for u, n in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if size_bytes >= u)
    return f"{digits(size_bytes / unit):g} {name}"


def metric(name: str, value: float | None) -> str:
    """A figure of a task by its metric: "97.2%" of "top1", "5.83" of "perplexity", "0.9912" of "cosine"."""
    if value is None:
        return NONE
    return f"{value:.1%}" if name == "top1" else f"{value:.4f}" if name == "cosine" else f"{digits(value):g}"


def digits(value: float) -> float:
    """Three significant digits."""
    return float(f"{value:.3g}")


def _narrowest(table: Table, console: Console) -> int:
    """Columns of the window that a table needs to break no word."""
    wide = console.options.update_width(10_000)
    needed = len(table.columns) - 1
    for column in table.columns:
        cells = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
        widths = [cell.maximum if column.no_wrap else cell.minimum for cell in cells]
        needed += max(*widths, column.min_width or 0)
    return needed

"""links.json -> a table: what every path should do beside what it did before the run and, if that is bad, after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed.judge import last
from testbed.tables import NONE, digits, duration, open_table, print_table

UNITS = {"_bit_s": (1e6, "Mbit/s"), "_bytes": (1e3, "kB"), "_s": (1e-3, "ms")}  # suffix of a name: unit of its column
COLOURS = {"ok": "green", "degraded": "yellow"}
AFTER = "after"
Row = Mapping[str, Any]
Flat = dict[str, Any]


def render_links(links: Sequence[Row], console: Console) -> None:
    """Print the table of links, what was found after the run, and a line for each that is not as declared."""
    decisive = last(links)
    table = links_table(
        [row for row in links if not is_fan(row) and (not _after(row) or (_bad(row) and row in decisive))]
    )
    print_table(table, console, [str(column.header) for column in table.columns[3:-1]])
    again = [_name(row) for row in decisive if row.get("attempt", 1) > 1]
    twice = max((row.get("attempt", 1) for row in decisive), default=1) == 2
    how = "twice, the second counts" if twice else "again, the last counts"
    lines = [fan_line(decisive), f"measured {how}: {', '.join(again)}" if again else None]
    for line in (*lines, after_line(decisive)):
        if line:
            console.print(Text(line, "dim"))
    for row in filter(_bad, decisive):
        console.print(Text(_complaint(row), _colour(row)))


def links_table(links: Sequence[Row]) -> Table:
    """One row per measurement, below what the file makes due; paths of which the same is due stand together."""
    flat = [(row, _flat(row.get("expected") or row.get("declared")), _flat(row.get("measured"))) for row in links]
    names = list(dict.fromkeys(name for _, due, _ in flat for name in due if due[name] is not None))
    names = sorted((n for n in names if any(n in seen for _, _, seen in flat)), key=lambda n: n.startswith("message"))
    # A message that fits in the bucket is due at once: measured and judged, but nothing to look at.
    names = [n for n in names if not n.startswith("message") or any(due.get(n) for _, due, _ in flat)]
    table = open_table("link", *(_title(name) for name in names))
    table.add_column("verdict", no_wrap=True)
    for due, rows in _alike(flat):
        table.add_row("due", *(_quantity(name, due.get(name)) for name in names), style="dim")
        for row, measured in rows:
            verdict = Text(str(row.get("verdict")), _colour(row))
            table.add_row(_name(row), *(_quantity(name, measured.get(name)) for name in names), verdict)
    return table


def _alike(flat: Iterable[tuple[Row, Flat, Flat]]) -> list[tuple[Flat, list[tuple[Row, Flat]]]]:
    """What is due, and the rows of which it is: each may lack some of it, but none says otherwise."""
    groups: list[tuple[Flat, list[tuple[Row, Flat]]]] = []
    for row, due, measured in flat:
        for other, rows in groups:
            if all(other[name] == due[name] for name in other.keys() & due.keys()):
                other.update(due)
                rows.append((row, measured))
                break
        else:
            groups.append((dict(due), [(row, measured)]))
    return groups


def fan_line(decisive: Sequence[Row]) -> str | None:
    """One line for the probes of two transfers at once, which show each direction of a link alone; None without any."""
    good = [row for row in decisive if is_fan(row) and not _after(row) and not _bad(row)]
    if not good:
        return None
    due, took = (_range(row[key]["two_at_once_s"] for row in good) for key in ("expected", "measured"))
    return f"two at once, {len(good)} directions: {took}, due {due}: ok"


def after_line(decisive: Sequence[Row]) -> str | None:
    """How many measurements after the run were as before it; None when there were none."""
    after = [row for row in decisive if _after(row)]
    good = sum(not _bad(row) for row in after)
    if not after:
        return None
    return f"after the run, measured again: {'all ' if good == len(after) else f'{good} of '}{len(after)} as declared"


def is_fan(row: Row) -> bool:
    """A probe of two transfers at once."""
    return "two_at_once_s" in (row.get("expected") or {})


def wrong_links(links: Sequence[Row]) -> list[str]:
    """A line for each path that is not as declared."""
    return [_complaint(row) for row in last(links) if _bad(row)]


def _complaint(row: Row) -> str:
    return f"{_name(row)} {row.get('verdict')}: {row.get('why')}"


def _name(row: Row) -> str:
    """ "h1 > h2", "h1 > h2 again" of a second measurement, "h1 > h2 (3)" of a third, "h1 > h2 after": after the run."""
    attempt = row.get("attempt", 1)
    which = " again" if attempt == 2 else f" ({attempt})" if attempt > 2 else ""
    return f"{row['from']} > {row['to']}{which}" + " after" * _after(row)


def _after(row: Row) -> bool:
    return row.get("when") == AFTER


def _bad(row: Row) -> bool:
    return row.get("verdict") != "ok"


def _colour(row: Row) -> str:
    return COLOURS.get(str(row.get("verdict")), "bold red")


def _range(seconds: Iterable[float]) -> str:
    """ "26 ms" or "26 ms to 28 ms"."""
    known = sorted(seconds)
    return " to ".join(dict.fromkeys((duration(known[0]), duration(known[-1]))))


def _flat(values: Mapping[str, Any] | None) -> Flat:
    """{"rtt_s": 1, "message_s": {"1000": 2}} -> {"rtt_s": 1, "message_s 1000": 2}."""
    flat: Flat = {}
    for key, value in (values or {}).items():
        flat |= {f"{key} {k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def _unit(name: str) -> tuple[str, float, str]:
    """A name of links.json -> the name without its unit, how much one unit of the column is, the unit's name."""
    if name == "loss":
        return name, 0.01, "%"
    for suffix, (scale, unit) in UNITS.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix), scale, unit
    return name, 1.0, ""


def _title(name: str) -> str:
    """Column of links.json, its unit below: "rtt_s" -> "rtt, ms", "message_s 64000" -> "64 kB, ms"."""
    key, _, number = name.partition(" ")
    words, _, unit = _unit(key)
    if number.isdecimal():
        return f"{int(number) / 1000:g} kB\n{unit}"
    return f"{words.replace('_', ' ')} {number}".strip() + f"\n{unit}" * bool(unit)


def _quantity(name: str, value: Any) -> str:
    """A number of links.json in the unit of its column, three digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NONE if value is None else str(value)
    shown: float = digits(value / _unit(name.partition(" ")[0])[1])
    return f"{shown:.9g}" if abs(shown) >= 1e-3 else "0"

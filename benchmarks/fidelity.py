"""Are links what they are declared to be? A grid of rates, delays and losses on one cable between two hosts, probed.

    sudo .venv/bin/python benchmarks/fidelity.py [--shaper relay] [--quick] [--write docs/fidelity.md]

Prints a Markdown table; with --write it replaces the part of a document that this kernel and shaper wrote before.
--cells FILE keeps every cell as it is measured, and leaves out those that FILE has: a long grid can be done in parts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import sys
import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from testbed import judge, probe, shape  # noqa: E402
from testbed.hosts import HOSTS, HostError  # noqa: E402
from testbed.topology import Host, Lane, Link, Loss, RunSpec, Topology  # noqa: E402
from testbed.trials import MESSAGE_BYTES  # noqa: E402
from testbed.units import show_duration, show_fraction, show_rate  # noqa: E402

RATES_BIT_S, DELAYS_S, LOSSES = (1e6, 10e6, 100e6), (0.0, 1e-3, 5e-3, 20e-3, 100e-3), (0.0, 0.01, 0.05)
QUICK = ((10e6, 0.0, 0.0), (10e6, 5e-3, 0.01))
Cell = tuple[float, float, float]
Row = dict[str, Any]
SIZES = [str(size) for size in MESSAGE_BYTES]
HEAD = ["rate", "delay", "loss", "RTT", "rate", *(f"{size // 1000} kB" for size in MESSAGE_BYTES), "lost", "verdict"]


def cable(cell: Cell) -> Topology:
    """Two hosts on a cable that is the same in both directions; each cell has losses of its own."""
    rate_bit_s, delay_s, loss = cell
    lane = Lane(rate_bit_s, delay_s, loss=Loss(loss))
    hosts = (Host("h1"), Host("h2"))
    seed = grid(False).index(cell) + 1
    return Topology("cable", "mininet", hosts, (), (Link.both("h1", "h2", lane),), RunSpec("h1", "vit-tiny", seed=seed))


def grid(quick: bool) -> list[Cell]:
    """The cells, in order."""
    return list(QUICK) if quick else list(product(RATES_BIT_S, DELAYS_S, LOSSES))


def measured(cell: Cell, shaper: str | None) -> Row:
    """One cell: its rows of links.json, which shaper it was, and how long the probe took; or why there are none."""
    topology = cable(cell)
    try:
        with HOSTS["mininet"](topology, secrets.token_hex(4), shaper) as network:
            began = time.monotonic()
            rows = probe.probe(network, topology)
            name = network.shaping.name if network.shaping else ""
            return {"cell": cell, "shaper": name, "rows": rows, "took_s": time.monotonic() - began}
    except (HostError, shape.NoShaper) as error:
        return {"cell": cell, "shaper": shaper or "", "rows": [], "took_s": 0.0, "error": str(error)}


def _farthest(rows: list[Row], name: str, size: str | None = None) -> str:
    """What was measured as a multiple of what is due, of the direction that is farther off; - if none was judged."""
    ratios = []
    for row in rows:
        due, got = (row[key].get(name) for key in ("expected", "measured"))
        if size is not None:
            due, got = (due or {}).get(size), (got or {}).get(size)
        if due and got:
            ratios.append(got / due)
    return f"{max(ratios, key=lambda ratio: abs(ratio - 1)):.3f}" if ratios else "-"


def line(found: Row) -> list[str]:
    """One row of the table."""
    rate_bit_s, delay_s, loss = found["cell"]
    start = [show_rate(rate_bit_s), show_duration(delay_s), show_fraction(loss)]
    rows = [row for row in judge.last(found["rows"]) if row["measured"]]
    if not rows:
        return [*start, *["-"] * (len(HEAD) - 4), f"none: {found.get('error') or found['rows'][0]['why']}"]
    rate = _farthest(rows, "goodput_bit_s")
    rate = f"{_farthest(rows, 'rate_bit_s')} t" if rate == "-" else rate
    messages = [_farthest(rows, "message_s", size) for size in SIZES]
    lost = " ".join(show_fraction(round(row["measured"]["loss"], 4)) for row in rows)
    again = sum(row["attempt"] > 1 for row in rows)
    verdict = judge.verdict(found["rows"]) + (f", {again} of {len(rows)} measured twice" if again else "")
    late_ms = max(((row["measured"]["rtt_s"] or 0) - row["expected"]["rtt_s"] for row in rows), key=abs) * 1e3
    return [*start, f"{late_ms:+.2f} ms", rate, *messages, lost, verdict]


def table(cells: list[Row]) -> str:
    """Markdown: every cell, then what was out of its band and what was not judged, with the reasons."""
    lines = [HEAD, ["---"] * len(HEAD), *(line(found) for found in cells)]
    text = ["| " + " | ".join(words) + " |" for words in lines]
    misses, reasons = [], dict[str, int]()
    for found in cells:
        name = ", ".join(line(found)[:3])
        misses += [f"- {name}: {complaint}" for complaint in judge.complaints(found["rows"])]
        for words in probe.not_judged(found["rows"]):
            reasons[words.partition(" (")[0]] = reasons.get(words.partition(" (")[0], 0) + 1
    text += ["", "Out of the band in the last measurement:", "", *(misses or ["- none"])]
    text += ["", "Not judged (cells):", "", *[f"- {words} ({count})" for words, count in reasons.items()]]
    return "\n".join(text if reasons else [*text[:-2], ""])


def section(cells: list[Row], command: str, quick: bool) -> tuple[str, str]:
    """(name, text) of the part of the document that this machine and shaper write."""
    kernel, shaper = platform.release(), cells[0]["shaper"]
    ok = sum(bool(found["rows"]) and judge.verdict(found["rows"]) == "ok" for found in cells)
    took_s = sum(found["took_s"] for found in cells)
    missing = "" if len(cells) == len(grid(quick)) else f"; interrupted, {len(grid(quick)) - len(cells)} not measured"
    text = [
        f"## {shaper}, Linux {kernel}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, `{command}`: {ok} of {len(cells)} cells as declared, "
        f"{took_s / max(1, len(cells)):.1f} s each{missing}.",
        "",
        table(cells),
    ]
    return f"{shaper} {kernel}", "\n".join(text).rstrip() + "\n"


def write(document: Path, name: str, text: str) -> None:
    """Put the part `name` into a document, in place of what it had there."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    old = document.read_text() if document.exists() else PREFACE
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2] if found else ""
    before = before if found else before.rstrip() + "\n\n"
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}")


PREFACE = """# Declared and measured links

One cable between two hosts, both directions with the rate, delay and loss of the row, probed as before every run.
RTT is measured - due, rate and messages are measured / due (1 is the truth), of the direction that is farther off. The
rate is that of a long TCP transfer or, marked t, of trains of datagrams, where TCP cannot fill the link. lost: of the
datagrams that were counted, in either direction. -: not judged, for a reason below the table. Accepted: RTT within
max(5 %, 0.3 ms), rate -5/+1 %, messages within max(one packet time + 0.3 ms, 5 %), loss within three standard
deviations.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shaper", choices=shape.SHAPERS, help="default: the best that this kernel has")
    parser.add_argument("--quick", action="store_true", help="two cells only")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the document to put the table into")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="keeps what was measured, one line of JSON per cell")
    given = parser.parse_args()
    known = given.cells.read_text() if given.cells and given.cells.exists() else ""
    kept = [json.loads(text) for text in known.splitlines()]
    cells: list[Row] = []
    try:
        for cell in grid(given.quick):
            found = next((one for one in kept if (*one["cell"], one["forced"]) == (*cell, given.shaper)), None)
            if found is None:
                found = {**measured(cell, given.shaper), "forced": given.shaper}
                if given.cells:
                    with given.cells.open("a") as file:
                        file.write(json.dumps(found) + "\n")
            cells.append(found)
            print(" ".join(line(found)), f"{found['took_s']:.1f} s", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        if not cells:
            raise
    words = [f"--shaper {given.shaper}"] * bool(given.shaper) + ["--quick"] * given.quick
    name, text = section(cells, " ".join(["benchmarks/fidelity.py", *words]), given.quick)
    print(text)
    if given.write:
        write(given.write, name, text)


if __name__ == "__main__":
    main()

"""The topology as a picture, and what every path was declared and measured to do."""

from __future__ import annotations

from testbed import diagram, evidence, judge, linktable, report
from testbed.page.data import Run, Study
from testbed.page.markup import Piece, details, from_console, joined, listed, paragraph, text

DRAWN, TABLES = 4, 24  # of how many runs at most; the rest is said


def network(study: Study) -> Piece:
    """Drawings of topologies that differ in more than numbers, then a table of links per run, the worst first."""
    order = {"wrong": 0, "unverified": 1, "degraded": 2}
    runs = sorted(study.runs, key=lambda run: order.get(run.verdict, 3))
    heading = "<h3>Links, declared and measured</h3>"
    if len(runs) == 1:
        return joined(_drawings(study), heading, _links(runs[0]))
    first, *others = [details(_title(run), _links(run), index == 0) for index, run in enumerate(runs[:TABLES])]
    rest = len(runs) - TABLES
    said = paragraph(f"Links of {rest} more runs are in their links.json.") if rest > 0 else ""
    return joined(_drawings(study), heading, first, details(f"{len(runs) - 1} more runs", "".join(others) + said))


def _drawings(study: Study) -> str:
    kinds: dict[tuple[object, ...], list[Run]] = {}
    for run in study.runs:
        if run.topology is not None:
            ends = tuple((link.a, link.b) for link in run.topology.links)
            kinds.setdefault((run.topology.backend, run.topology.hosts, run.topology.switches, ends), []).append(run)
    parts = [_drawing(runs, study) for runs in list(kinds.values())[:DRAWN]]
    more = list[str]()
    if len(kinds) > DRAWN:
        more.append(paragraph(f"{len(kinds) - DRAWN} more topologies are not drawn: testbed check --draw does it."))
    unread = dict.fromkeys(run.unread for run in study.runs if run.topology is None)
    drawn = f'<div class="panels">{"".join(parts)}</div>'
    return "\n".join(
        [drawn, *more, *(paragraph(f"Not drawn, its topology cannot be read here: {why}") for why in unread)]
    )


def _drawing(runs: list[Run], study: Study) -> str:
    first = runs[0]
    assert first.topology is not None
    name = f"Topology {first.topology.name}" + (f", run {first.letter}" if len(study.runs) > 1 else "")
    told = [f"{name}, as declared."]
    if len(runs) > 1:
        told.append(f"{len(runs)} runs have this shape; their rates: {_rates(runs, study)}.")
    return (
        f'<figure><div class="scroll drawing" tabindex="0" role="img" aria-label="{text(name)}">'
        f"{diagram.svg(first.topology)}</div><figcaption>{text(' '.join(told))}</figcaption></figure>"
    )


def _rates(runs: list[Run], study: Study) -> str:
    """Every rate once, the lowest first."""
    settings = sorted((study.settings[run.setting] for run in runs), key=lambda one: one.network.rate_bit_s or 0.0)
    return ", ".join(dict.fromkeys(one.axes.get("rate", "none") for one in settings))


def _title(run: Run) -> str:
    return f"{run.letter}: {run.data.topology['name']}, {run.verdict}"


def _links(run: Run) -> str:
    """The table of the terminal and the lines below it."""
    links = run.data.links
    if not links:
        shaped = run.data.topology.get("links") and run.data.topology.get("backend") != "local"
        return paragraph(f"{evidence.NEVER}." if shaped else "It has no links to measure.", "none")
    single = [row for row in links if not linktable.is_fan(row)]
    last = judge.last(links)
    found = (linktable.fan_line(last), linktable.after_line(last))
    lines = [*(line for line in found if line), *linktable.wrong_links(links), *report.not_judged(links)]
    shown = from_console(linktable.links_table(single), f"Links of {run.data.topology['name']}: due, and measured")
    return shown + listed([*lines, *evidence.lines(run.data)])

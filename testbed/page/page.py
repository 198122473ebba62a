"""`testbed report RUN...`: run folders and sweep folders -> one HTML file that needs nothing but a browser.

The file carries plotly.js and, as JSON, every plot (`plots`), the requests for the timeline (`timeline`) and the
numbers that the plots were made of (`facts`); a policy in its head forbids it to fetch anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from testbed import store
from testbed.disk import give
from testbed.page import (
    beside,
    breakdown,
    drawing,
    fidelity,
    forecast,
    frontier,
    latency,
    maps,
    markup,
    notes,
    payload,
    style,
    timeline,
)
from testbed.page.data import Row, Setting, Study, gather, labelled, plain, records
from testbed.page.head import head
from testbed.page.markup import Piece, chosen, joined, section
from testbed.predict.against import cells

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)
NAME = "report.html"
FORECAST = (
    "setting", "kind", "rate_bit_s", "delay_s", "method", "label", "measured_s", "n", "predicted_s", "error",
    "published_s", "source", "accounted_s", "predicted_speedup", "published_speedup", "accounted_speedup", "basis",
    "model", "why", "verdict",
)  # fmt: skip
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="generator" content="testbed report">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{css}
</style>
</head>
<body>
<header>
{head}
</header>
<nav aria-label="sections">{nav}</nav>
<main>
{main}
</main>
<script type="application/json" id="page-data">{data}</script>
<script>{plotly}</script>
<script>
{script}
</script>
</body>
</html>
"""


def report(paths: Sequence[Path], out: Path | None, figures: Path | None) -> list[Path]:
    """Write the page, and the files for a paper where `figures` is a folder; -> what was written. Raises StoreError."""
    target = out or (paths[0] / NAME if len(paths) == 1 else Path(NAME))
    study = gather(paths).with_cells(cells(paths))
    written = [write(target, page(study))]
    if figures is not None:
        from testbed.page import paper

        written += paper.draw(study, figures)
    return written


def page(study: Study) -> str:
    """The whole file."""
    from plotly.offline import get_plotlyjs

    told = forecast.rows(study)
    found, timelines = _sections(study, told)
    title = ", ".join(dict.fromkeys(str(run.data.topology["name"]) for run in study.runs))
    data = {
        "template": style.template(),
        "plots": {plot.name: {"data": plot.data, "layout": plot.layout} for piece, *_ in found for plot in piece.plots},
        "timeline": timelines,
        "facts": {**facts(study), "forecasts": [{key: row[key] for key in FORECAST} for row in told]},
    }
    here = files("testbed.page")
    return PAGE.format(
        policy=POLICY, title=escape(f"{title}: testbed report"), css=(here / "page.css").read_text(encoding="utf-8"),
        head=head(study).html, nav=" ".join(f'<a href="#{name}">{words}</a>' for _, name, words in found),
        main="\n".join(section(name, words, piece).html for piece, name, words in found), data=embedded(data),
        plotly=get_plotlyjs(), script=(here / "page.js").read_text(encoding="utf-8"),
    )  # fmt: skip


def _sections(study: Study, told: Sequence[Row]) -> tuple[list[tuple[Piece, str, str]], dict[str, Any] | None]:
    """(piece, its name, its title) in the order of the page, and what the timeline needs."""
    looks = style.looks(labelled(study))
    requests, timelines = timeline.timeline(study)
    found = [
        (drawing.network(study), "network", "Network"),
        (_each(study, partial(latency.latency, study, looks=looks)), "latency", "Latency"),
        (_each(study, partial(breakdown.breakdown, study)), "breakdown", "Where the time goes"),
        (frontier.frontier(study, looks, told), "bandwidth", "Against bandwidth"),
        (beside.beside(study, told, maps.drawn(study)), "beside", "Published, predicted, measured"),
        (_each(study, partial(payload.payload, study, looks=looks)), "bytes", "Bytes"),
        (_each(study, partial(fidelity.fidelity, study, looks=looks)), "fidelity", "Fidelity"),
        (requests, "timeline", "Timeline of a request"),
        (notes.told(study), "notes", "Notes"),
    ]
    return found, timelines


def _each(study: Study, show: Callable[[Setting], Piece]) -> Piece:
    """The same part for every setting; one select in each part moves all of them."""
    pieces = [(one.title, show(one)) for one in study.settings]
    if len(pieces) == 1:
        bad = study.settings[0].verdict == "wrong"
        warning = markup.paragraph("NOT VALID: the network was not the declared one.", "banner bad") if bad else ""
        return joined(warning, pieces[0][1])
    return chosen("setting", "Setting", pieces)


def facts(study: Study) -> dict[str, Any]:
    """The numbers of the page, as plain data: what programs and tests read."""
    return {
        "runs": [
            {"letter": run.letter, "name": run.data.topology["name"], "verdict": run.verdict, "setting": run.setting}
            for run in study.runs
        ],
        "settings": [
            {"title": one.title, "runs": one.runs, "axes": dict(one.axes), "rate_bit_s": one.network.rate_bit_s,
             "delay_s": one.network.delay_s}
            for one in study.settings
        ],
        "methods": records(study.methods),
        "devices": [
            {"setting": one.index, **row}
            for one in study.settings
            for row in records(breakdown.means(study.devices[study.devices["setting"] == one.index]))
        ],
    }  # fmt: skip


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that no text in it can end early, whatever a run folder holds."""
    text = json.dumps(store.finite(data), separators=(",", ":"), allow_nan=False, default=plain)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def write(path: Path, content: str) -> Path:
    """Replace a file in one step; it belongs to who typed the command, through sudo too. Raises StoreError."""
    draft = path.with_name(f".{path.name}.new")
    try:
        draft.write_text(content, encoding="utf-8")
        give(draft)
        draft.replace(path)
    except OSError as error:
        raise store.StoreError(f"{path}: cannot be written: {error.strerror}") from None
    return path

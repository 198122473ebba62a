"""Published, predicted and measured figures beside each other, how far off predictions are, and the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from testbed.differences import INVALID
from testbed.page import forecast, frontier, maps
from testbed.page.data import Row, Study
from testbed.page.head import marked, none_to_show, some
from testbed.page.markup import Piece, chosen, details, joined, paragraph, table
from testbed.page.setting import PANEL, REPLAYED
from testbed.predict import accounting, messages, paper
from testbed.predict.against import REAL, Errors, errors_of
from testbed.predict.beside import NOT_DECLARED
from testbed.predict.paper import FORMULA
from testbed.report import against
from testbed.tables import NONE, duration
from testbed.units import show_rate

GOOD = 0.15  # an error beyond it is named
NAMED = 8
KINDS = ("published", "predicted", "measured")
TOLD = (
    "Error is predicted / measured - 1. Predictions come from the steps that the runtime executes, the profile of "
    "their stages, the declared network, and what messages and frames cost the machine that made them, measured apart: "
    "lines are as fast as one machine can emulate them. Nothing was fitted to what is compared."
)
PUBLISHED = (
    "Published are speedups over one device for 4 devices and 1024 tokens, by the paper's accounting: compute + "
    "bits / bandwidth on a dedicated link for every pair, without delay, headers or messages; its Mbit/s are 2^20 "
    "bit/s. For other sizes, and rates between, the same formula (the paper's formula) gives what is marked with *. "
    "Beside them stand the steps that the runtime executes, by the same accounting."
)
OF_THEMSELVES = (
    "Where compute was real, stages are given the times that the run itself took for them: of it the network alone is "
    "predicted."
)


def beside(study: Study, found: Sequence[Row], drawn: Sequence[maps.Map]) -> Piece:
    """Errors in a sentence, who beats one device from where on, the maps, and all numbers."""
    known = [row for row in found if row["predicted_s"] is not None]
    if not known:
        why = dict.fromkeys(row["why"] for row in found if row["why"])
        return none_to_show(f"Nothing could be predicted: {'; '.join(why)}." if why else "Nothing was predicted.")
    parts: list[Piece | str] = [paragraph(said) for said in summary(found)]
    costs = messages.told(cell.costs for cell in study.cells if cell.costs is not None)
    parts.append(paragraph(" ".join([TOLD, *(f"{words[0].upper()}{words[1:]}." for words in costs)])))
    parts += [paragraph(PUBLISHED), *_accounted(study)] if forecast.replayed(found) else []
    parts += [paragraph(OF_THEMSELVES)] * any(row["basis"] == REAL for row in found)
    parts += [_by_method(found), _crossings(found), *(maps.panel(one) for one in drawn)]
    if more := maps.left_out(study):
        parts.append(paragraph(f"Without a map, of which there are {len(drawn)}: {some(more, '; ')}."))
    return joined(*parts, _numbers(study, found))


def summary(found: Sequence[Row]) -> list[str]:
    """How far predictions are off, in sentences; those beyond 15 % by name."""
    measured = [row for row in found if forecast.counts(row)]
    left = sum(row["error"] is not None and row["method"] != "single" for row in found) - len(measured)
    aside = f" Of {left} more nothing is said: their network was not the declared one, or not verified." * (left > 0)
    whole = errors_of([row["error"] for row in measured])
    if whole is None:
        return [f"Nothing was both predicted and measured.{aside}"]
    said = [
        f"Over {whole.n} methods and networks that were measured, the prediction is off by {whole.median:.1%} in the "
        f"median and {whole.worst:.0%} at worst (predicted / measured {whole.ratio:.2f} in the geometric mean).{aside}"
    ]
    bad = sorted((row for row in measured if abs(row["error"]) > GOOD), key=lambda row: -abs(row["error"]))
    if bad:
        named = ", ".join(
            f"{row['label']} {row['error']:+.0%} ({_title(row['axes'], found, True)})" for row in bad[:NAMED]
        )
        more = f", and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        said.append(f"Beyond 15 %: {len(bad)} of {whole.n}: {named}{more}.")
    return said


def _accounted(study: Study) -> list[str]:
    """The steps that run in the paper's accounting, in a sentence and, for who opens it, figure by figure."""
    profiles = (cell.case.profile for cell in study.cells if cell.case is not None)
    profile = next((one for one in profiles if one.name == accounting.NAME), None)
    told = None if profile is None else accounting.told(paper.read(), profile)
    if profile is None or told is None:
        return []
    rows = [
        (row.method, f"{row.mbps:g} x 2^20 bit/s", f"{row.published:g}x", f"{row.predicted:.4g}x", f"{row.error:+.1%}")
        for row in accounting.speedups(paper.read(), profile).itertuples()
    ]
    caption = marked("Speedups over one device, 4 devices, 1024 tokens.", forecast.PAPER)
    heads = ("method", "bandwidth", "published", "steps in its accounting", "off by")
    return [paragraph(f"{told}."), details("The paper's speedups, and those of the steps", table(heads, rows, caption))]


def _replayed(found: Sequence[Row]) -> str | None:
    """ "compute replayed from NAME", of all rows together."""
    names = dict.fromkeys(row["axes"]["compute"] for row in found if row["axes"]["compute"].startswith(REPLAYED))
    first, *others = names or [""]
    return ", ".join([first, *(name.removeprefix(REPLAYED).strip() for name in others)]) or None


def _by_method(found: Sequence[Row]) -> str:
    """Errors by method and by network, for who opens it."""
    rows = []
    for name in ("label", "kind", "shaper"):
        groups: dict[str, list[float]] = {}
        for row in found:
            if forecast.counts(row):
                groups.setdefault(str(row[name]), []).append(row["error"])
        rows += [(key, *_cells(one)) for key, values in groups.items() if (one := errors_of(values)) is not None]
    heads = ("of", "n", "median", "worst", "predicted / measured")
    caption = marked("Size of the errors of predictions.", _replayed(found))
    return details("Errors by method, network and shaper", table(heads, rows, caption))


def _cells(one: Errors) -> tuple[object, ...]:
    return one.n, f"{one.median:.1%}", f"{one.worst:.1%}", f"{one.ratio:.3f}"


def _crossings(found: Sequence[Row]) -> Piece:
    """For every kind of network and delay: from which bandwidth on which method beats one device."""
    parts = list[str]()
    for group in dict.fromkeys(row["group"] for row in found):
        here = [row for row in found if row["group"] == group]
        rates = sorted({row["rate_bit_s"] for row in here})
        if len(rates) > 1:
            title = f"{_title(here[0]['axes'], found)}, from {show_rate(rates[0])} to {show_rate(rates[-1])}."
            parts.append(table(("method", *KINDS), _beating(here), marked(title, _replayed(here))))
    if not parts:
        return joined()
    return joined("<h3>From which bandwidth on a method beats one device</h3>", *parts)


def _beating(here: Sequence[Row]) -> list[tuple[str, ...]]:
    """A row per method."""
    labels = dict.fromkeys(row["label"] for row in here if row["method"] != "single")
    own = {label: [row for row in here if row["label"] == label] for label in labels}
    return [(label, *(_from(rows, here, kind) or NONE for kind in KINDS)) for label, rows in own.items()]


def _from(own: Sequence[Row], here: Sequence[Row], kind: str) -> str:
    """ "from 35 Mbit/s on", "everywhere", "nowhere"; nothing where it is not known, or was not the declared network."""
    if kind == "measured":
        own, here = ([row for row in rows if row["verdict"] not in INVALID] for rows in (own, here))
    alone = {row["rate_bit_s"]: row[f"{kind}_s"] for row in here if row["method"] == "single"}
    points = [
        (row["rate_bit_s"], alone[row["rate_bit_s"]] / row[f"{kind}_s"], None, None)
        for row in own if row[f"{kind}_s"] and alone.get(row["rate_bit_s"])
    ]  # fmt: skip
    return frontier.briefly(points) if points else ""


def _title(axes: Mapping[str, str], found: Sequence[Row], rate: bool = False) -> str:
    """The network of a group, and what else tells it from the other groups; with the rate, of a setting of it."""
    others = {axis for row in found for axis, value in row["axes"].items() if axes.get(axis) != value} - {"rate"}
    shown = [axis for axis in axes if axis in PANEL or axis in others or (rate and axis == "rate")]
    return ", ".join(axes[axis] for axis in shown if axes[axis] != "none")


def _numbers(study: Study, found: Sequence[Row]) -> Piece:
    """A table for each group, one at a time."""
    heads = ("method", "bandwidth", "published", "steps in its accounting", "predicted", "measured", "n", "error",
             "published vs single", "steps in its accounting", "predicted", "measured")  # fmt: skip
    pieces = []
    speedups = {(row["setting"], row["label"]): row["speedup"] for row in study.methods.to_dict("records")}
    for group in dict.fromkeys(row["group"] for row in found):
        here = [row for row in found if row["group"] == group]
        title = _title(here[0]["axes"], found)
        cells = [_row(row, speedups.get((row["setting"], row["label"]))) for row in here]
        pieces.append((title or "all", Piece(table(heads, cells, marked(f"{title}.", _replayed(here))))))
    return joined("<h3>The numbers</h3>", chosen("beside", "Network", pieces))


def _row(row: Row, measured: float | None) -> tuple[object, ...]:
    star = "*" if row["source"] == FORMULA else ""

    def marked_(shown: str) -> str:
        return f"{shown}{star}" if shown != NONE else shown

    return (
        row["label"], show_rate(row["rate_bit_s"]), marked_(duration(row["published_s"])),
        duration(row["accounted_s"]), duration(row["predicted_s"]), duration(row["measured_s"]), row["n"] or NONE,
        _off(row), marked_(against(row["published_speedup"])), against(row["accounted_speedup"]),
        against(row["predicted_speedup"]), against(measured if row["measured_s"] else None),
    )  # fmt: skip


def _off(row: Row) -> str:
    """The error, or why it is none."""
    if row["error"] is None:
        return NONE
    return NOT_DECLARED.get(row["verdict"]) or f"{row['error']:+.1%}"

"""Sections of docs/accuracy.md on bytes against accuracy, and on lost codes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import choice
from benchmarks.accuracy.figures import RATES as LOSSES
from benchmarks.accuracy.figures import RUN, UNHEARD
from benchmarks.accuracy.grid import DEVICES, DROPOUT, GROUPS, RATES, RIVALS, TRAINED, recipe
from benchmarks.accuracy.parts import WHOLE, key
from benchmarks.accuracy.results import (
    HERE,
    HIGHER,
    NONE,
    TITLES,
    UNITS,
    Key,
    Results,
    gained,
    section,
    table,
    verdict,
)  # fmt: skip
from runtime.codecs.vq import code_bits
from testbed.prepare import source
from testbed.tables import METRICS

STUDIES = ("digits", "corpus")


@dataclass(frozen=True)
class Point:
    """One on the plane. bytes: of one token in one layer, to one receiver; tuned: None where it was not fine-tuned."""

    name: str
    bytes: float
    untuned: Key
    tuned: Key | None


def points(study: str) -> Iterator[Point]:
    """Codes, then rivals."""
    found = recipe(study, 0, None)
    for groups in GROUPS:
        label = f"G={groups}"
        yield Point(f"ASTRA, {label}", groups * code_bits(found.astra.codewords) / 8, (study, "original", label),
                    (study, label, HERE))  # fmt: skip
    rows, width = found.tokens // DEVICES, source.describe(found).width
    for name, rival in RIVALS.items():
        tuned: Key | None = (study, name, HERE) if name in TRAINED else None
        yield Point(name, rival.row_bytes(rows, width), (study, "original", name), tuned)


def section_of(results: Results, drawn: dict[str, Path]) -> str:
    """The plane, as a table and a plot for each data set."""
    texts: list[Sequence[str] | str] = [
        f"Bytes that a token costs in each layer, to each device that it is sent to (fp32: 4 times the width). "
        f"{DEVICES} devices; every rival in ASTRA's seat: the layer input of others' tokens is coded, a device's own "
        "tokens and class token are exact. int8 and int4: blocks of 64 with an fp16 scale, as `sequence` sends them; "
        "segment means: PRISM (arXiv 2507.12145); top-k: the largest k features of each token in fp16. Untrained: put "
        "on the original (codes: by k-means); fine-tuned: as many steps as the codes, rivals with consecutive tokens "
        "on each device, as they are measured, codes with tokens dealt out at random, as their recipe says. One mean "
        "in fp32 is not fine-tuned: in int8 it differs by its rounding.",
        "Rates: each method is fine-tuned at the one of these with which "
        f"{choice.STEPS} steps of the first seed gave the least loss on inputs held back, also from the training of "
        "the original that they began with (below, both are trained on them too): by a draw, "
        f"{100 * choice.HELD_BACK:g} % of what there is to train on, of the corpus of its files; losses are of at most "
        f"{choice.INPUTS} of these, of one seed and without an interval: they choose, no more. The three in the middle "
        "were tried, and one beyond where the least was at an end; were it at an end of all five, another might be "
        "better. Codes: at G = 1, for every G and for every part of the method that is switched off. Where that rate "
        "is small a training moves little, and parts that make no difference there may do at a larger one.",
        *(_rates(results, study) for study in STUDIES),
    ]
    for study in STUDIES:
        name = results.metric(study)
        rows = []
        for point in sorted(points(study), key=lambda point: -point.bytes):
            rows.append([point.name, f"{point.bytes:.4g}", results.said(point.untuned), *_tuned(results, point)])
        rows.append(["nothing sent", "0", results.said((study, "original", UNHEARD)), NONE, "", "", "", ""])
        head = (TITLES[study], "bytes", f"untrained, {METRICS[name]}", f"fine-tuned, {METRICS[name]}",
                f"training gains, {UNITS[name]}", "", f"fine-tuned, against ASTRA's G = 1, {UNITS[name]}",
                "")  # fmt: skip
        texts += [
            table(head, rows),
            _front(results, study),
            f"![{TITLES[study]}: bytes per token and layer against accuracy]({drawn[study].name})",
        ]
    return section("Rivals: bytes per token against accuracy", *texts)


def _front(results: Results, study: str) -> str:
    """What no other point is both smaller than and better."""
    better = 1 if HIGHER[results.metric(study)] else -1
    placed = []
    for point in points(study):
        keys = [point.untuned, *([point.tuned] if point.tuned is not None else [])]
        placed.append((point.bytes, max(better * results.mean(key).value for key in keys), point.name))
    ahead = [name for size, worth, name in sorted(placed)
             if not any(other[0] <= size and other[1] > worth for other in placed)]  # fmt: skip
    return (
        "By their means, the better of untrained and fine-tuned on these same inputs, nothing is both as small and "
        f"better than: {'; '.join(ahead)}. Whether one is better than another beyond chance is for differences in "
        "pairs to say, as in the last columns."
    )


def _rates(results: Results, study: str) -> list[str]:
    """Which were tried, and what came of each; in bold the one that was chosen."""
    (row,) = results.of(study, "rates")
    lines = []
    for method, losses in row["losses"].items():
        chosen = f"{row['rates'][method]:g}"
        tried = {rate: f"**{loss:.4f}**" if rate == chosen else f"{loss:.4f}" for rate, loss in losses.items()}
        lines.append([method, *(tried.get(f"{rate:g}", NONE) for rate in RATES)])
    head = f"{TITLES[study]}: loss of {row['held back']} inputs"
    return table((head, *(f"{rate:g}" for rate in RATES)), lines)


def _tuned(results: Results, point: Point) -> list[str]:
    if point.tuned is None:
        return [NONE, "", "", "", ""]
    gain, codes = results.gain(point.tuned, point.untuned), key(point.tuned[0], WHOLE)
    against = ["", ""]
    if point.tuned != codes:
        apart = results.gain(point.tuned, codes)
        against = [gained(apart), verdict(apart)]
    return [results.said(point.tuned), gained(gain), verdict(gain), *against]


def losses(results: Results) -> str:
    """Message dropout in training, and messages lost at the test."""
    texts: list[Sequence[str] | str] = [
        f"G = 1, {DEVICES} devices. A message, the codes that one device has for another in one layer (one datagram "
        "here), does not come, and its tokens are masked: each by itself, or in runs of "
        f"{RUN} on average, which the end of a request cuts short, of what a device sends in a row. Trained without "
        "loss, and with a share of the messages lost in every batch (`message_dropout`).",
    ]
    gains = []
    for study in STUDIES:
        name, rows = results.metric(study), []
        for kind, rate, measured in _losses():
            plain, dropped = (study, "G=1", measured), (study, "G=1 dropout", measured)
            gain = results.gain(dropped, plain)
            gains.append((study, rate, verdict(gain)))
            lost = results.gain(plain, key(study, "G=1"))
            rows.append([kind, f"{rate:.0%}", results.said(plain), gained(lost) if rate else "", results.said(dropped),
                         gained(gain), verdict(gain)])  # fmt: skip
        head = (TITLES[study], "lost", f"trained without, {METRICS[name]}", f"against no loss, {UNITS[name]}",
                f"trained with {DROPOUT:.0%}, {METRICS[name]}", "gain of training with", "")  # fmt: skip
        texts.append(table(head, rows))
    return section("Lost messages, and training for them", *texts, _earned(gains))


def _losses() -> Iterator[tuple[str, float, str]]:
    yield "none", 0.0, HERE
    for kind in ("independent", "bursty"):
        for rate in LOSSES[1:]:
            yield kind, rate, f"lost {kind} {rate:g}"


def _earned(gains: Sequence[tuple[str, float, str]]) -> str:
    said = []
    for study in STUDIES:
        under = [found for one, rate, found in gains if one == study and rate]
        without = next(found for one, rate, found in gains if one == study and not rate)
        said.append(
            f"{TITLES[study]}: training with loss is better in {under.count('better')} and worse in "
            f"{under.count('worse')} of {len(under)} cases of loss; without loss: {without}"
        )
    earned = any(found == "better" for _, rate, found in gains if rate)
    answer = "Here it does, where it is better." if earned else "Here it does not: it is nowhere seen to be better."
    return f"Does it earn its place? {'. '.join(said)}. {answer} One share of losses was tried."

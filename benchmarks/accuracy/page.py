"""docs/accuracy.md of results alone: what is said there is what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import order, parts, plots, rivals, theory
from benchmarks.accuracy.figures import UNHEARD
from benchmarks.accuracy.grid import DEVICES, GROUPS, PLAIN, RIVALLED, recipe
from benchmarks.accuracy.intervals import Mean, of_seeds
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
    spread,
    table,
    verdict,
)  # fmt: skip
from runtime.codecs.vq import code_bits
from runtime.methods.astra import streams
from testbed.prepare import source
from testbed.tables import METRICS

ALLOWED = {"top1": {32: 1.0, 1: 4.0}, "perplexity": {32: 10.0, 1: 25.0}}  # points, and per cent: what was aimed at


def write(path: Path, found: Sequence[Mapping[str, Any]], seeds: int, quick: bool = False) -> None:
    """The page, and its plots beside it. quick: of trainings that were cut short, so that it says nothing."""
    results = Results(found)
    drawn = plots.write(path.parent, results)
    whole = [
        _head(results, seeds),
        *(_against_original(results, study) for study in TITLES),
        order.text(results),
        *parts.sections(results),
        section(
            "The same, drawn",
            "Intervals are of each mean by itself: whether two differ, differences in pairs say, in the tables.",
            f"![devices, uneven cuts and noise]({drawn[plots.PARTS].name})",
        ),
        *theory.sections(results),
        rivals.section_of(results, drawn),
        rivals.losses(results),
    ]
    if quick:
        whole.insert(0, "**Made by `--quick`: its trainings were cut short, so that its figures say nothing.**")
    path.write_text("\n\n".join(whole) + "\n", encoding="utf-8")


def _head(results: Results, seeds: int) -> str:
    hours = sum(sum(row["seconds"].values()) for row in results.rows) / 3600
    models = sum(_trained(row) for row in results.rows)
    return "\n\n".join(
        [
            "# Accuracy beside latency",
            "Written by `python -m benchmarks.accuracy` (`sudo make accuracy`), which trains and measures what is "
            f"missing: {models} models, and short trainings that choose rates, {hours:.1f} core hours on CPUs. How a "
            "user with a GPU does the same with ImageNet is in [prepare.md](prepare.md).",
            f"Every figure is of held-out inputs, {seeds} seeds (of weights, batches, noise and the inputs that "
            "k-means sees; k-means draws alike on them, and MiniLM's weights are its own, the same for all), on one "
            f"machine with the arithmetic of many; {DEVICES} devices with the tokens cut evenly unless said.",
            "Steps are as many as there is time for. The recipes, with the originals' rates, were found by trial "
            "before this study and not on a third part of the data, of which there is none. The rates of fine-tuning "
            "on digits and the corpus are chosen on inputs held back from training (see the rivals). Rows to train on "
            "that equal one to test on are left out, but not text that stands in files of both elsewhere in a row.",
            "Brackets are 95 % intervals over seeds and held-out inputs at once: the variance of the seeds' means and "
            "that of the inputs' means added (Student's t); of text, rows of one file count together"
            f"{_files(results)}. Digits are held out by a draw, so their writers are in both parts. Differences are "
            "taken in pairs, same seed and same input. `better` and `worse` are said where such an interval leaves 0 "
            "out, otherwise `no difference seen`, which does not say that there is none: with three seeds intervals "
            "are wide. A batch's rows, its tokens' owners and what it loses are drawn by one generator: trainings of "
            "one seed that draw more or less of these (consecutive parts, message dropout, rivals, no codes) see other "
            "rows from the second batch on, and their differences have that in them. "
            "Ends beyond 0 and 100 % are cut off. Nothing is corrected for there being many comparisons.",
            "Fine-tuning is also training: where the original had not learned all it could, part of what is gained is "
            "more steps. The original that was trained on as long without codes shows how much, where there is one; so "
            "does the fine-tuned model on one device. What codes are there for is what lies between the original and "
            "`nothing sent`: the original on devices that hear nothing of each other's tokens in any layer.",
            "These are small models on small data: they can show the order of effects, as far as intervals are narrow "
            "enough, and not the paper's figures. A "
            f"group's features with {' and '.join(map(str, GROUPS[1:]))} groups: {'; '.join(map(_features, TITLES))}; "
            "ViT-Base has 48 and 24. Parts of the method are compared at G = 1, whose groups of 96 and 128 features "
            "are coarser than the paper's with G = 16, of which its own figures for λ are.",
        ]
    )


def _files(results: Results) -> str:
    """ " (n of files: corpus 93)"."""
    found = ((study, results.origins(study)) for study in TITLES)
    said = [f"{study} {len(set(origins))}" for study, origins in found if origins is not None]
    return f" (n of files: {', '.join(said)})" if said else ""


def _trained(row: Mapping[str, Any]) -> bool:
    found = recipe(row["study"], 0, None)
    if row["label"] == "original":
        return found.original is not None
    return row["label"] != "rates" and found.training.steps > 0


def _features(study: str) -> str:
    found = recipe(study, 0, None)
    width = next(iter(streams(source.describe(found), found.astra).values()))
    return f"{study} {' and '.join(str(width // groups) for groups in GROUPS[1:])}"


def _against_original(results: Results, study: str) -> str:
    """The claim of the paper's first table."""
    name, found = results.metric(study), recipe(study, 0, None)
    one = results.of(study, "original")[0]
    original: Key = (study, "original", "alone")
    rows = [("original, no codes", NONE, "", results.said(original), results.said(original), "", "")]
    if study in RIVALLED:
        trained: Key = (study, PLAIN, HERE)
        rows.append(
            ("the same, trained on as long", NONE, "", results.said((study, PLAIN, "alone")),
             results.said(trained), gained(results.gain(trained, original)), "")
        )  # fmt: skip
    rows.append(("nothing sent", "0", results.said((study, "original", UNHEARD)), "", "", "", ""))
    lines = []
    for groups in GROUPS:
        label = f"G={groups}"
        tuned: Key = (study, label, HERE)
        gain = results.gain(tuned, original)
        rows.append(
            (label, bits(study, groups, found.astra.codewords), results.said((study, "original", label)),
             results.said((study, label, "alone")), results.said(tuned), gained(gain),
             gained(results.gain(tuned, (study, "original", label))))
        )  # fmt: skip
        lines += _goal(name, groups, gain)
    head = ("", "bits per token and layer", "k-means codes on the original", "fine-tuned, 1 device",
            f"fine-tuned, {DEVICES} devices", f"against the original, {UNITS[name]}", "fine-tuning gains")  # fmt: skip
    about = (
        f"{one['data']}: {one['train']} inputs to train on, n = {one['inputs']} held out, {found.tokens} tokens, "
        f"K = {found.astra.codewords}; {METRICS[name]}, {'higher' if HIGHER[name] else 'lower'} is better."
    )
    if not found.training.steps:
        about += " Its recipe has no fine-tuning: codes are those of k-means in every column."
    ranks = _ranks(results) if study == "minilm" else ""
    return section(TITLES[study], about, table(head, rows), " ".join(lines), ranks)


def bits(study: str, groups: int, codewords: int) -> str:
    """Of all coded streams."""
    found = recipe(study, 0, None)
    count = len(streams(source.describe(found), found.astra))
    return str(count * groups * code_bits(codewords))


def _goal(name: str, groups: int, gain: Mean) -> list[str]:
    allowed = ALLOWED.get(name, {}).get(groups)
    if allowed is None:
        return []
    return [f"Aim at G = {groups}: at most {allowed:g} {UNITS[name]} lost: {reached(gain, allowed)}."]


def reached(gain: Mean, allowed: float) -> str:
    """Whether no more than `allowed` was lost, by the interval of a gain."""
    said = "met" if -gain.value <= allowed else "missed"
    if gain.low is None or gain.high is None:
        return f"{said} on average, one seed"
    if gain.low >= -allowed or gain.high < -allowed:
        return said
    return f"{said} on average, the interval reaches {gain.low if said == 'met' else gain.high:+.2f}"


def _ranks(results: Results) -> str:
    said = []
    for groups in GROUPS:
        found = [row["ranks"] for row in results.of("minilm", f"G={groups}")]
        seeds = spread(of_seeds([one["value"] for one in found]), "{:.4f}")
        low, high = (NONE if found[0][end] is None else f"{found[0][end]:.4f}" for end in ("low", "high"))
        said.append(f"G={groups}: {seeds}, {low} to {high} over passages")
    return (
        "Spearman's correlation of the cosines of all pairs of held-out passages, over devices against the original: "
        "mean and interval over seeds, and that of the first seed over passages (bootstrap, each by itself): "
        f"{'; '.join(said)}."
    )


__all__ = ["verdict", "write"]

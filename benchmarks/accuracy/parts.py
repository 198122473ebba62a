"""Sections of docs/accuracy.md on the parts of the method: each switched off, or varied. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.accuracy.figures import FIRSTS, MOST_DEVICES, full_precision, spans
from benchmarks.accuracy.grid import COMMITMENTS, DEVICES, GROUPS, RIVALLED, noises, recipe
from benchmarks.accuracy.results import HERE, TITLES, UNITS, Key, Results, gained, section, table, verdict
from testbed.tables import METRICS

WHOLE = "G=1"
OFF = {
    "G=1 no noise": "NAVQ's noise (λ = 0)",
    "G=1 one class token": "distributed class tokens (only device 0 has one)",
    "G=1 commitment 0": "commitment loss (β = 0)",
    "G=1 codebooks fixed": "moving averages and reseeding (codebooks stay where k-means put them)",
    "G=1 no reseeding": "reseeding of dead codewords",
    "G=1 even assignment": "random assignment of tokens (always consecutive ones)",
}


def sections(results: Results) -> list[str]:
    """All of them."""
    return [_contributions(results), _assignment(results), _noise(results), _class_tokens(results),
            _commitment(results), _codes(results), _devices(results), _uneven(results)]  # fmt: skip


def key(study: str, label: str) -> Key:
    """The task on DEVICES devices."""
    return study, label, HERE


def _contributions(results: Results) -> str:
    texts: list[Sequence[str] | str] = [
        f"G = 1, {DEVICES} devices; trained without one part, and measured as trained. The gain is that of the whole "
        "method over the method without the part.",
    ]
    for study in ("digits", "corpus"):
        name = results.metric(study)
        original = (study, "original", WHOLE)
        gain = results.gain(key(study, WHOLE), original)
        rows = [
            ["all parts on", results.said(key(study, WHOLE)), "", ""],
            ["fine-tuning (k-means codes on the original)", results.said(original), gained(gain), verdict(gain)],
        ]
        for label, part in OFF.items():
            if study == "corpus" and label == "G=1 one class token":  # it has none
                continue
            gain = results.gain(key(study, WHOLE), key(study, label))
            rows.append([part, results.said(key(study, label)), gained(gain), verdict(gain)])
        head = (TITLES[study] + ", without", METRICS[name], f"gain of the part, {UNITS[name]}", "with it")
        texts.append(table(head, rows))
    return section("Each part's contribution", *texts)


def _assignment(results: Results) -> str:
    texts: list[Sequence[str] | str] = [
        f"G = 1. Trained with tokens dealt out at random, or in {DEVICES} consecutive parts alike: on the cut of that "
        "training, and on others, which one codebook is to serve."
    ]
    for study in ("digits", "corpus"):
        rows, name, tokens = [], results.metric(study), recipe(study, 0, None).tokens
        last = " + ".join(str(len(span)) for span in spans(tokens, FIRSTS[-1]))
        cuts = {HERE: f"{DEVICES} devices, evenly", "devices 2": "2 devices", f"devices {MOST_DEVICES}":
                f"{MOST_DEVICES} devices", f"first {FIRSTS[-1]:g}": last}  # fmt: skip
        for cut, called in cuts.items():
            dealt, even = (study, WHOLE, cut), (study, "G=1 even assignment", cut)
            gain = results.gain(dealt, even)
            rows.append([called, results.said(even), results.said(dealt), gained(gain), verdict(gain)])
        head = (TITLES[study], f"consecutive, {METRICS[name]}", "at random", f"gain, {UNITS[name]}", "at random")
        texts.append(table(head, rows))
    return section("Random assignment of tokens", *texts)


def _against(results: Results, study: str, labels: Sequence[tuple[str, str]], head: str) -> list[str]:
    """A table of variants against the whole method. labels: (label, how it is called)."""
    rows, name = [], results.metric(study)
    for label, called in labels:
        gain = results.gain(key(study, label), key(study, WHOLE))
        change = ["", ""] if label == WHOLE else [gained(gain), verdict(gain)]
        rows.append([called, results.said(key(study, label)), *change])
    return table((f"{TITLES[study]}: {head}", METRICS[name], f"against the recipe's, {UNITS[name]}", ""), rows)


def _noise(results: Results) -> str:
    names, tables = {0.0: "G=1 no noise", 1.0: WHOLE}, list[Sequence[str]]()
    for study in RIVALLED:
        labels = [(names.get(noise, f"G=1 noise {noise:g}"), f"{noise:g}") for noise in noises(study)]
        tables.append(_against(results, study, labels, "λ"))
    return section("NAVQ: noise of λ times the residuals'", "G = 1 (the paper: G = 16).", *tables)


def _commitment(results: Results) -> str:
    labels = [(WHOLE if beta == 1e-4 else f"G=1 commitment {beta:g}", f"{beta:g}") for beta in COMMITMENTS]
    return section("Commitment: β", "G = 1.", _against(results, "digits", labels, "β"))


def _class_tokens(results: Results) -> str:
    rows = []
    for groups in (1, 16):
        ours, one = key("digits", f"G={groups}"), key("digits", f"G={groups} one class token")
        gain = results.gain(ours, one)
        rows.append([str(groups), results.said(one), results.said(ours), gained(gain), verdict(gain)])
    head = ("G", "one class token", "one on each device", "gain, points", "distributed")
    text = "Digits. One: only device 0 has it, sees its own tokens as they are and those of others as codes."
    return section("One class token against distributed ones", text, table(head, rows))


def _codes(results: Results) -> str:
    labels = [(WHOLE, "X, K = 1024: 10 bits per token and layer"), ("G=1 K=256", "X, K = 256: 8 bits")]
    apart = [("G=1 code kv", "K and V each by itself, K = 1024: 20 bits")]
    tables = [_against(results, study, labels + apart * (study == "digits"), "coded") for study in RIVALLED]
    return section("Codewords, and what is coded", "G = 1.", *tables)


def _devices(results: Results) -> str:
    texts: list[Sequence[str] | str] = [f"Trained once, for {DEVICES}; tokens cut evenly."]
    for study in ("digits", "corpus"):
        counts = range(2, MOST_DEVICES + 1)
        rows = []
        for groups in GROUPS:
            label = f"G={groups}"
            cells = [results.said((study, label, f"devices {n}")) for n in counts]
            rows.append([label, results.said((study, label, "alone")), *cells])
        texts.append(table((f"{TITLES[study]}, {METRICS[results.metric(study)]}", "1", *map(str, counts)), rows))
    return section("Devices, without training again", *texts)


def _uneven(results: Results) -> str:
    texts: list[Sequence[str] | str] = [
        f"G = 1, {DEVICES} devices, the first of which holds more and more of the tokens. Pairs: share of the pairs of "
        "query and visible key that see each other in full precision."
    ]
    for study in ("digits", "corpus"):
        rows = []
        tokens, causal = recipe(study, 0, None).tokens, study == "corpus"
        base: Key = (study, WHOLE, f"first {FIRSTS[0]:g}")
        for share in FIRSTS:
            cut = spans(tokens, share)
            mine: Key = (study, WHOLE, f"first {share:g}")
            gain = results.gain(mine, base)
            change = ["", ""] if share == FIRSTS[0] else [gained(gain), verdict(gain)]
            lengths = " + ".join(str(len(span)) for span in cut)
            rows.append([lengths, f"{full_precision(cut, causal):.2f}", results.said(mine), *change])
        name = results.metric(study)
        head = (TITLES[study], "pairs", METRICS[name], f"against the even cut, {UNITS[name]}", "")
        texts.append(table(head, rows))
    return section("Uneven cuts", *texts)

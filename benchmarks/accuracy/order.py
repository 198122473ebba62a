"""Where the paper's order of effects holds here: its figures beside ours, and what the intervals say. Pure.

The paper's figures: reference/astra_paper.yaml of this project's specification, from arXiv 2505.19342.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.accuracy.grid import PLAIN, RIVALLED
from benchmarks.accuracy.intervals import Mean
from benchmarks.accuracy.parts import key
from benchmarks.accuracy.results import UNITS, Key, Results, gained, section, table

UNSAID = "cannot be said"
NOTHING = 1.0  # points, or per cent of perplexity: differences within are none where a claim is that there is none


@dataclass(frozen=True)
class Claim:
    """One that the first is better than the second; `same`: that there is nothing (less than NOTHING) between them."""

    said: str
    paper: str
    better: Key
    worse: Key
    same: bool = False


def _claims() -> Iterator[Claim]:
    orders = (
        ("digits", "ViT-Base, CIFAR-100: 92.53, 91.64, 90.77, 88.95 %"),
        ("corpus", "GPT-2, WikiText-103: 18.96, 20.95, 23.22, 25.98"),
        ("llama", "Llama-3-8B: 7.44, 7.59, 7.73"),  # there is no original that was trained on as long
    )
    for study, paper in orders:
        if study in RIVALLED:
            trained = "the original, trained on as long, is better than G = 32"
            yield Claim(trained, paper, key(study, PLAIN), key(study, "G=32"))
        yield Claim("G = 32 is better than G = 16", paper, key(study, "G=32"), key(study, "G=16"))
        yield Claim("G = 16 is better than G = 1", paper, key(study, "G=16"), key(study, "G=1"))
    single = "G = 1: 88.95 against 81.82 %; G = 16: 90.77 against 88.93 %"
    for groups in (1, 16):
        label = f"G={groups}"
        yield Claim(f"distributed class tokens are better than one, G = {groups}", single, key("digits", label),
                    key("digits", f"{label} one class token"))  # fmt: skip
    noise = "ViT-Base, CIFAR-100, G = 16, λ = 0, 0.1, 0.3, 1: 89.91, 90.02, 90.13, 90.77 %"
    for study in RIVALLED:
        none, whole, some = (key(study, label) for label in ("G=1 no noise", "G=1", "G=1 noise 0.3"))
        yield Claim("λ = 1 is better than λ = 0, G = 1", noise, whole, none)
        yield Claim("λ = 1 is better than λ = 0.3, G = 1", noise, whole, some)
        yield Claim("λ = 0.3 is better than λ = 0, G = 1", noise, some, none)
    devices = "G = 32 on 1, 2, 4, 6, 8 devices: 92.53, 91.86, 91.64, 91.35, 91.14 %"
    for study in ("digits", "corpus"):
        for groups in (32, 1):
            two, eight = ((study, f"G={groups}", f"devices {n}") for n in (2, 8))
            yield Claim(f"2 devices are better than 8, G = {groups}", devices, two, eight)
    yield Claim(f"5 % of lost messages change less than ±{NOTHING:g}, G = 1", "Llama-3-8B: 7.73 against 7.73",
                key("corpus", "G=1"), ("corpus", "G=1", "lost independent 0.05"), same=True)  # fmt: skip


def text(results: Results) -> str:
    """The section."""
    rows, counts = [], {"holds": 0, "does not hold": 0, "no difference seen": 0, UNSAID: 0}
    for claim in _claims():
        gain = results.gain(claim.better, claim.worse)
        found = held(gain, claim.same)
        counts[found] = counts.get(found, 0) + 1
        unit = UNITS[results.metric(claim.better[0])]
        rows.append([claim.better[0], claim.said, claim.paper, f"{gained(gain)} {unit}", found])
    summary = (
        f"Of {len(rows)} statements {counts['holds']} hold here and {counts['does not hold']} do not. The others stay "
        f"open: of {counts['no difference seen']} the interval has 0 in it, which does not say that there is no "
        f"difference; of {counts[UNSAID]} that claim there is none the interval is too wide. What the paper gives no "
        "figures for is judged in sections of their own below: each part of the method, random assignment of tokens, "
        "the two theorems."
    )
    head = ("", "the paper's order", "its figures", "here: first less second, above 0 is better", "here it")
    return section("Where the paper's order of effects holds", summary, _left_out(results), table(head, rows))


def _left_out(results: Results) -> str:
    """Of the claims."""
    gain = results.gain(key("llama", "G=32"), ("llama", "original", "alone"))
    return (
        "Not among them: that llama's original is better than its G = 32 (Llama-3-8B: 5.81 against 7.44). Here there "
        f"is none that was trained on as long; against the one there is G = 32 gains {gained(gain)} "
        f"{UNITS[results.metric('llama')]}, which has those steps in it."
    )


def held(gain: Mean, same: bool = False) -> str:
    """Whether a claim that the first is better (or, `same`, that it is not) agrees with an interval."""
    if gain.low is None or gain.high is None:
        return "one seed: cannot be said"
    if same and gain.low >= -NOTHING and gain.high <= NOTHING:
        return "holds"
    if same:
        return "does not hold" if gain.low > NOTHING or gain.high < -NOTHING else UNSAID
    if gain.low > 0:
        return "holds"
    return "does not hold" if gain.high < 0 else "no difference seen"

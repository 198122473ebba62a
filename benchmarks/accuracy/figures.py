"""What a model is worth on held-out inputs, one figure for each input: over devices, cut unevenly, with losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.accuracy.grid import DEVICES, Rival
from runtime.mixed import Holding, Quantize, alone, contiguous
from runtime.model import Model, load
from runtime.plan import Span, even_spans
from runtime.shape import Shape
from runtime.training import measure
from runtime.training.data import Data

MOST_DEVICES = 8
FIRSTS = (0.25, 0.5, 0.75, 0.95)  # share of the tokens that the first of four devices has
RATES = (0.0, 0.01, 0.05, 0.1)
RUN = 3  # messages, the mean length of a burst that nothing cuts short
UNHEARD = "nothing sent"
Figures = list[float]


@dataclass(frozen=True)
class Subject:
    """A model, what others see of its tokens, and what it is measured on. aim: [n, ...] of `measure.targets`."""

    model: Model
    streams: frozenset[str]
    quantize: Quantize
    inputs: Tensor
    aim: Tensor
    one_class_token: bool = False
    _cuts: dict[tuple[Span, ...], Figures] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tokens(self) -> int:
        """Content tokens of one input."""
        return self.inputs.shape[1] - int(self.model.shape.causal)

    def figures(self, held: Callable[[int], Holding]) -> Figures:
        """One for each input; held: who holds what, of so many inputs."""
        return measure.figures(self.model, self.inputs, self.aim, held, self.streams, self.quantize)

    def alone(self) -> Figures:
        """One device, no codes."""
        return self.figures(lambda rows: alone(rows, self.tokens))

    def cut(self, spans: Sequence[Span]) -> Figures:
        """Consecutive tokens on each device; measured once."""
        key = tuple(spans)
        if key not in self._cuts:
            self._cuts[key] = self.figures(lambda rows: self.held(spans, rows))
        return self._cuts[key]

    def held(self, spans: Sequence[Span], rows: int) -> Holding:
        """As it was trained."""
        return replace(contiguous(spans, rows), one_class_token=self.one_class_token and len(spans) > 1)


def coded(folder: Path, books: Mapping[str, Tensor], data: Data, aim: Tensor, one: bool = False) -> Subject:
    """With codebooks."""
    return Subject(load(folder), measure.streams_of(books), measure.coded(books), data.test, aim, one)


def fixed(folder: Path, rival: Rival, data: Data, aim: Tensor) -> Subject:
    """With a rival of codes."""
    return Subject(load(folder), frozenset({"input"}), rival, data.test, aim)


def by_devices(subject: Subject) -> dict[str, Figures]:
    """Tokens cut evenly among 2 to 8."""
    return {f"devices {n}": subject.cut(even_spans(subject.tokens, n)) for n in range(2, MOST_DEVICES + 1)}


def unheard(subject: Subject) -> Figures:
    """DEVICES devices, none of which hears of another's tokens."""

    def held(rows: int) -> Holding:
        whole = subject.held(even_spans(subject.tokens, DEVICES), rows)
        return replace(whole, heard=torch.zeros(subject.model.shape.layers, rows, DEVICES, DEVICES, dtype=torch.bool))

    return subject.figures(held)


def uneven(subject: Subject) -> dict[str, Figures]:
    """Cuts among four devices that are more and more uneven."""
    return {f"first {share:g}": subject.cut(spans(subject.tokens, share)) for share in FIRSTS}


def spans(tokens: int, share: float, devices: int = DEVICES) -> list[Span]:
    """Consecutive ones of which the first has this share of the tokens, and the others the rest, evenly."""
    first = round(tokens * share)
    rest = [Span(span.start + first, span.stop + first) for span in even_spans(tokens - first, devices - 1)]
    return [Span(0, first), *rest]


def full_precision(cut: Sequence[Span], causal: bool) -> float:
    """Share of the pairs of content tokens, query and visible key, that see each other as they are."""

    def pairs(count: int) -> int:
        return count * (count + 1) // 2 if causal else count**2

    return sum(pairs(len(span)) for span in cut) / pairs(sum(len(span) for span in cut))


def lost(subject: Subject) -> dict[str, Figures]:
    """Some messages do not come, each the codes of one device for another in one layer: at these sizes a datagram. What
    a device sends is lost each by itself, or in runs."""
    found = {}
    for kind, lose in (("independent", independent), ("bursty", bursty)):
        for rate in RATES[1:]:
            draw = torch.Generator().manual_seed(0)  # every model loses the same messages

            def held(rows: int, lose: Lose = lose, rate: float = rate, draw: torch.Generator = draw) -> Holding:
                whole = subject.held(even_spans(subject.tokens, DEVICES), rows)
                return replace(whole, heard=~messages(lose, rows, subject.model.shape, rate, draw))

            found[f"lost {kind} {rate:g}"] = subject.figures(held)
    return found


Lose = Callable[[int, int, float, torch.Generator], Tensor]


def messages(lose: Lose, rows: int, shape: Shape, rate: float, draw: torch.Generator) -> Tensor:
    """Which are lost, bool [layers, rows, DEVICES, DEVICES] by receiver and sender. A device sends to one other after
    the other, of a causal model to those of later tokens, then what it has for them in the next layer."""
    lost = torch.zeros(shape.layers, rows, DEVICES, DEVICES, dtype=torch.bool)
    for sender in range(DEVICES):
        receivers = [rank for rank in range(DEVICES) if rank > sender or (rank < sender and not shape.causal)]
        if receivers:
            sent = lose(rows, shape.layers * len(receivers), rate, draw).view(rows, shape.layers, len(receivers))
            lost[:, :, receivers, sender] = sent.transpose(0, 1)
    return lost


def independent(rows: int, count: int, rate: float, draw: torch.Generator) -> Tensor:
    """Which of so many in a row are lost, bool [rows, count]."""
    return torch.rand(rows, count, generator=draw) < rate


def bursty(rows: int, count: int, rate: float, draw: torch.Generator) -> Tensor:
    """The same share in runs of RUN on average (a Markov chain of two states, in its long run)."""
    end = 1 / RUN
    begin = end * rate / (1 - rate)
    drawn = torch.rand(rows, count, generator=draw)
    states = [drawn[:, 0] < rate]
    for i in range(1, count):
        states.append(drawn[:, i] < torch.where(states[-1], 1 - end, begin))
    return torch.stack(states, 1)

"""After the prompt: the device that holds its last token goes on alone, token by token, and nothing travels for it.

Every new token is this device's own: it attends to the device's tokens in full precision and to the others' as the
prompt's tokens here did (`runtime.memory`). Its logits are where it was computed, so it is drawn there; a source that
is another device is sent its id at once, in a frame of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from runtime.collectives import Exchange
from runtime.layer import alone
from runtime.memory import Memory, Remembering
from runtime.methods.method import Method
from runtime.model import Model
from runtime.plan import Generation, Plan
from runtime.sampling import Sampler
from runtime.stages import Stages, untimed

TOKEN_BYTES = torch.int32.itemsize


@dataclass
class Spoken:
    """New tokens in order, and when each was known where this is kept: `time.perf_counter`."""

    tokens: list[int] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)

    @property
    def between_s(self) -> float | None:
        """Mean seconds from one token to the next; None where there is only one."""
        steps = len(self.at_s) - 1
        return (self.at_s[-1] - self.at_s[0]) / steps if steps else None

    def add(self, token: int) -> None:
        """One more, known now."""
        self.tokens.append(token)
        self.at_s.append(perf_counter())


def decode(
    model: Model, memory: Memory, row: Tensor, how: Generation, stages: Stages = untimed
) -> Iterator[tuple[int, Tensor]]:
    """New tokens as they are drawn, each with its logits [vocabulary]; the first from the prompt's last row [D]."""
    sampler = Sampler(how)
    for left in reversed(range(how.tokens)):
        with stages("head"):
            logits = model.head(row)
            token = sampler(logits)
        yield token, logits
        if left:
            row = _following(model, memory, token, stages)


def _following(model: Model, memory: Memory, token: int, stages: Stages) -> Tensor:
    """A new token through all layers: the row [D] that tells which one comes after it."""
    position = memory.position
    with stages("embed"):
        x = model.embed(torch.tensor([token], device=model.place), position, position + 1)
    for layer in model.layers:
        x = layer(x, position, memory)
    with stages("read_out"):
        return model.read_out(x, 0)


def memory_for(plan: Plan) -> Memory:
    """An empty memory of the device of the last token; the last new token is never looked back at."""
    assert plan.generation is not None, "the plan says how many tokens follow"
    own = plan.shares[-1].tokens
    return Memory(own.start, len(own) + plan.generation.tokens - 1)


def speak(method: Method, memory: Memory | None, row: Tensor | None, exchange: Exchange, speaker: int) -> Spoken:
    """What this device gets to know of the new tokens: speaker and source all of them, other devices none."""
    how, source, spoken = method.plan.generation, method.plan.source, Spoken()
    assert how is not None, "the plan says how many tokens follow"
    if memory is not None and row is not None:
        for token, _ in decode(method.model, memory, row, how, method.stages):
            if source != speaker:
                exchange.send_token(source, token)
            spoken.add(token)
    elif method.rank == source:
        for _ in range(how.tokens):
            spoken.add(exchange.receive_token(speaker))
    return spoken


def token_bytes(plan: Plan, rank: int) -> int:
    """Bytes of ids that a rank sends: those of all new tokens if it speaks and the source is another device, else 0."""
    if plan.generation is None or rank == plan.source or rank != plan.world - 1:
        return 0
    return plan.generation.tokens * TOKEN_BYTES


def continued(model: Model, prompt: Tensor, how: Generation) -> tuple[list[int], list[float]]:
    """The one-device program: ids [T] -> the new tokens, and by how much each was ahead, see `Sampler.lead`."""
    memory, again = Memory(0, len(prompt) + how.tokens - 1), Sampler(how)
    x, context = model.embed(prompt, 0, len(prompt)), Remembering(alone, memory)
    for layer in model.layers:
        x = layer(x, 0, context)
    found = [(token, again.lead(logits)) for token, logits in decode(model, memory, model.read_out(x, 0), how)]
    return [token for token, _ in found], [ahead for _, ahead in found]

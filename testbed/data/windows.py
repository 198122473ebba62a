"""Text to rows of ids: windows that do not overlap, each with the special ids of the model's tokenizer around it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from runtime.training.data import Data
from testbed.data.wanted import Wanted, some, unseen
from testbed.inputs import BadInputs, Encoder, bytes_as_ids, encoder_of

TRAIN_ROWS, TEST_ROWS = 20_000, 400
BYTES = 256


def encoder(wanted: Wanted) -> Encoder:
    """How the model reads text. Raises BadInputs for a model that plain text is not for, or with too few ids."""
    if wanted.shape.result == "classes":
        raise BadInputs("the model tells classes apart and this text has none: give a model of tokens or embeddings")
    if bytes_as_ids(wanted.shape, wanted.folder) and wanted.shape.vocabulary < BYTES:
        raise BadInputs(
            f"bytes are the ids, as there is no tokenizer: a vocabulary of {wanted.shape.vocabulary} is "
            f"too small, give a model of at least {BYTES}"
        )
    made = encoder_of(wanted.shape, wanted.folder)
    if wanted.shape.causal:  # a window ends in the middle of its text: no mark of its end belongs there
        made = Encoder(made.before, made.after[:0], made.encode)
    if content(made, wanted) < 1:
        raise BadInputs(f"tokens {wanted.tokens}: its tokenizer adds {len(made.before) + len(made.after)} special ones")
    return made


def content(encoder: Encoder, wanted: Wanted) -> int:
    """Ids of text in a row: a causal model has one more to say than it reads."""
    return wanted.tokens + int(wanted.shape.causal) - len(encoder.before) - len(encoder.after)


def encoded(texts: Iterable[str], encoder: Encoder) -> Tensor:
    """The ids of all texts, one after another, int32 [n]."""
    return torch.cat([encoder.before[:0], *(encoder.encode(text) for text in texts)])


def cut(ids: Tensor, encoder: Encoder, wanted: Wanted) -> Tensor:
    """Rows [n, content] of ids that follow one another; what is left at the end is left out."""
    length = content(encoder, wanted)
    return ids[: len(ids) // length * length].view(-1, length)


def data(
    name: str,
    train: Tensor,
    test: Tensor,
    encoder: Encoder,
    wanted: Wanted,
    origins: tuple[Tensor, Tensor] | None = None,
) -> Data:
    """Rows of ids to train on, a seeded choice, and to test on, a fixed one spread evenly. Raises BadInputs.

    origins: int64, numbers for the files that the rows of `train` and of `test` come from, where they are known.
    """
    rows = min(len(test), TEST_ROWS)
    chosen = [i * len(test) // rows for i in range(rows)]
    learnt = torch.tensor(some(len(train), TRAIN_ROWS, wanted.seed), dtype=torch.int64)
    learnt = learnt[unseen(train[learnt], test[chosen])]
    if wanted.only is not None and chosen:
        learnt, chosen = learnt[:0], [chosen[i] for i in wanted.only(rows)]
    elif not (len(learnt) and chosen):
        there = min(len(train), TRAIN_ROWS)
        same = f" (those that equal one to test on are left out: {there} were there)" if len(learnt) < there else ""
        what = f"{len(learnt)} rows of {wanted.tokens} tokens to train on{same}, {rows} to test"
        raise BadInputs(f"{what}: give more text")
    files = (None, None) if origins is None else (origins[0][learnt], origins[1][chosen])
    return Data(name, _framed(train[learnt], encoder), None, _framed(test[chosen], encoder), None, *files)


def _framed(rows: Tensor, encoder: Encoder) -> Tensor:
    def repeated(ids: Tensor) -> Tensor:
        return ids.expand(len(rows), -1)

    return torch.cat([repeated(encoder.before), rows, repeated(encoder.after)], 1)

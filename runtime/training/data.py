"""What is trained on and what is measured on, as tensors: this package knows nothing of files."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Data:
    """Raw inputs as `Model.embed` takes them, one request a row, and what is to be said of them.

    train, test: [n, T, patch x patch x channels] uint8 patches, or ids [n, T] int32; for a causal model [n, T + 1], of
    which it reads all but the last and is to say all but the first. labels: int64 [n] of classes, None where there are
    none. name: for people, with what it depends on (a version, a file). train_origins, test_origins: int64 [n], a
    number for the file that a row comes from, where several rows come from one; None: each comes by itself.
    """

    name: str
    train: Tensor
    train_labels: Tensor | None
    test: Tensor
    test_labels: Tensor | None
    train_origins: Tensor | None = None
    test_origins: Tensor | None = None

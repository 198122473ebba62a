"""What all families need to turn foreign names and settings into ours."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from runtime.errors import BadModel

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def activation(theirs: object) -> str:
    """Our name of an activation function. Raises BadModel for one that the layer does not have."""
    if theirs not in ACTIVATIONS:
        raise BadModel(f"activation {theirs!r} is not supported, only {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[str(theirs)]


def head_width(width: int, heads: int) -> int:
    """Width of one attention head. Raises BadModel if `heads` does not divide `width`."""
    if heads < 1 or width % heads:
        raise BadModel(f"width {width} is not a multiple of {heads} attention heads")
    return width // heads


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Modules under their new names, weight and, where there is one, bias. names: {ours: theirs}, "{i}" in both: every
    layer. Raises KeyError if a weight is missing."""
    tensors = {}
    for ours, theirs in names.items():
        index = 0
        while index == 0 or ("{i}" in theirs and f"{theirs.format(i=index)}.weight" in state):
            new, old = ours.format(i=index), theirs.format(i=index)
            tensors[f"{new}.weight"] = state[f"{old}.weight"]
            if f"{old}.bias" in state:
                tensors[f"{new}.bias"] = state[f"{old}.bias"]
            index += 1
    return tensors

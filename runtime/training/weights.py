"""A converted model with weights that can be trained, and back into its folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from runtime.layer import Layer
from runtime.model import Model, load, save

HALF = 127.5  # of a pixel's range: training sees pixels from -1 to 1
PATCH = "embed.patch.weight", "embed.patch.bias"


class Trainable:
    """parameters: by name, as the model uses them (q, k and v joined). `model` is made anew at each call, so that
    nothing it keeps outlives a change of weights.

    Of patches, weights are trained as those of pixels from -1 to 1: a model reads pixels from 0 to 255, with weights so
    small that a step of the usual rates is many times their size (digits: 84 % right after 900 such steps).
    """

    def __init__(self, folder: Path, place: str = "cpu") -> None:
        """Raises BadModel."""
        loaded = load(folder, place=place)
        self.shape, self._rotary = loaded.shape, loaded.layers[0].rotary
        self.parameters: dict[str, Tensor] = {}
        for name, tensor in loaded.tensors.items():
            self.parameters[name] = _leaf(tensor)
        if self.shape.embedding == "patches":
            weight, bias = (self.parameters[name].detach() for name in PATCH)
            scaled = weight * HALF
            self.parameters |= dict(zip(PATCH, map(_leaf, (scaled, bias + scaled.sum(1))), strict=True))
        for layer in loaded.layers:
            for name, tensor in layer.weights.items():
                self.parameters[f"layers.{layer.index}.{name}"] = _leaf(tensor)

    def model(self) -> Model:
        """As it is now."""
        rest = {name: tensor for name, tensor in self._plain().items() if not name.startswith("layers.")}
        return Model(self.shape, rest, [self._layer(index) for index in range(self.shape.layers)])

    def _plain(self) -> dict[str, Tensor]:
        """Parameters as the model has them."""
        if self.shape.embedding != "patches":
            return self.parameters
        weight, bias = (self.parameters[name] for name in PATCH)
        return self.parameters | dict(zip(PATCH, (weight / HALF, bias - weight.sum(1)), strict=True))

    def _layer(self, index: int) -> Layer:
        prefix = f"layers.{index}."
        own = {n.removeprefix(prefix): t for n, t in self.parameters.items() if n.startswith(prefix)}
        return Layer(self.shape, own, self._rotary, index)

    def decayed(self) -> list[dict[str, object]]:
        """Groups for an optimiser: matrices decay, biases, norms and embeddings do not."""
        matrices = {n for n, t in self.parameters.items() if t.dim() == 2 and not n.startswith("embed.")}
        groups = ([t for n, t in self.parameters.items() if (n in matrices) is wanted] for wanted in (True, False))
        first, second = groups
        return [{"params": first}, {"params": second, "weight_decay": 0.0}]

    def save(self, folder: Path) -> None:
        """Write the folder that `runtime.model.load` reads."""
        tensors = {}
        for name, tensor in self._plain().items():
            layer, _, kind = name.rpartition(".qkv.")
            if not layer:
                tensors[name] = tensor
                continue
            sizes = [self.shape.heads * self.shape.head_dim, self.shape.kv_width, self.shape.kv_width]
            for part, cut in zip("qkv", torch.split(tensor.detach(), sizes), strict=True):
                tensors[f"{layer}.{part}.{kind}"] = cut
        if self._rotary is not None:
            tensors["rotary.frequencies"] = self._rotary
        save(folder, self.shape, tensors)


def _leaf(tensor: Tensor) -> Tensor:
    # A copy: what is loaded is mapped from a file that other processes share.
    return torch.nn.Parameter(tensor.detach().clone())

"""A converted model in a folder (`shape.json`, `weights.safetensors`), and the share of it that one device loads.

Names in the file: `embed.patch` | `embed.tokens`, `embed.positions`, `embed.class`, `embed.types`, `embed.norm`,
`rotary.frequencies`, `layers.<i>.{norm1,q,k,v,o,norm2,up,gate,down}`, `head.{norm,pool,out}`; linear weights are
[outputs, inputs]. The file is mapped, not read: devices on one machine share its pages, and load only their slices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from runtime.errors import BadModel
from runtime.layer import Layer, normalize
from runtime.plan import Span
from runtime.shape import Shape, grid

WEIGHTS, SHAPE = "weights.safetensors", "shape.json"


def save(folder: Path, shape: Shape, tensors: Mapping[str, Tensor]) -> None:
    """Write a converted model; the shape last, so that a folder with one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.detach().contiguous().float() for name, t in tensors.items()}, folder / WEIGHTS)
    (folder / SHAPE).write_text(json.dumps(shape.as_dict(), indent=1))


def load_shape(folder: Path) -> Shape:
    """The shape of a converted model. Raises BadModel."""
    try:
        return Shape(**json.loads((folder / SHAPE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise BadModel(f"{folder}: not a converted model ({error})") from None


def fingerprint(folder: Path, name: str = WEIGHTS) -> str:
    """SHA-256 of a file of the folder, for comparing what devices hold."""
    with (folder / name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Model:
    """What one device holds: embeddings and head, and those layers, cut to those heads, that its share names."""

    def __init__(self, shape: Shape, tensors: Mapping[str, Tensor], layers: Sequence[Layer]) -> None:
        self.shape, self.layers = shape, layers
        self.tensors = tensors
        self.place = next((tensor.device for tensor in tensors.values()), torch.device("cpu"))
        self._positions: dict[int, Tensor] = {}

    def with_layers(self, layers: Sequence[Layer]) -> Model:
        """The same embeddings and head around other layers."""
        return Model(self.shape, self.tensors, layers)

    def joined(self, tensors: Sequence[Tensor], side: int = 0) -> Tensor:
        """Tensors put together along one of their sides."""
        return torch.cat(list(tensors), side)

    def embed(self, raw: Tensor, start: int, tokens: int) -> Tensor:
        """Content tokens `start`, start + 1, ... of a request of `tokens` in all -> [S, D].

        raw: uint8 pixels of patches [S, patch x patch x channels], or token ids [S] of any integer dtype.
        The class token is not added, see `class_token`.
        """
        if self.shape.embedding == "patches":
            x = F.linear(raw.float(), self.tensors["embed.patch.weight"], self.tensors["embed.patch.bias"])
            return x + self._patch_positions(tokens)[start : start + raw.shape[0]]
        x = F.embedding(raw.long(), self.tensors["embed.tokens.weight"])
        if "embed.positions.weight" in self.tensors:
            x = x + self.tensors["embed.positions.weight"][start : start + raw.shape[0]]
        if "embed.types.weight" in self.tensors:
            x = x + self.tensors["embed.types.weight"][0]
        if "embed.norm.weight" in self.tensors:
            x = normalize(self.shape, x, self.tensors["embed.norm.weight"], self.tensors.get("embed.norm.bias"))
        return x

    def class_token(self) -> Tensor:
        """The class token with its position [1, D], or no rows [0, D]."""
        if not self.shape.class_token:
            return torch.zeros(0, self.shape.width, device=self.place)
        return self.tensors["embed.class.weight"] + self.tensors["embed.positions.weight"][:1]

    def _patch_positions(self, tokens: int) -> Tensor:
        """Learned positions [tokens, D] of a patch grid, bicubic where it is not the trained (square) one."""
        if tokens not in self._positions:
            self._positions[tokens] = self._interpolated(tokens)
        return self._positions[tokens]

    def _interpolated(self, tokens: int) -> Tensor:
        trained = self.tensors["embed.positions.weight"][self.shape.prefix :]
        if trained.shape[0] == tokens:
            return trained
        side = int(trained.shape[0] ** 0.5)
        image = trained.view(1, side, side, -1).permute(0, 3, 1, 2)
        image = F.interpolate(image, size=grid(tokens), mode="bicubic", align_corners=False)
        return image.permute(0, 2, 3, 1).reshape(tokens, -1)

    def read_out(self, y: Tensor, content_from: int) -> Tensor:
        """What the head needs of hidden states y [S, D] that this device holds: one row [D], after the final norm.

        "first" and "last" read that row of y, "mean" the *sum* over the content rows, `content_from` on.
        """
        rows = {"first": y[:1], "last": y[-1:], "mean": y[content_from:]}[self.shape.readout]
        if "head.norm.weight" in self.tensors:
            rows = normalize(self.shape, rows, self.tensors["head.norm.weight"], self.tensors.get("head.norm.bias"))
        return rows.sum(0)

    def head(self, row: Tensor) -> Tensor:
        """Row [D] after the final norm -> result [outputs]: logits, or an embedding of unit length."""
        if "head.pool.weight" in self.tensors:
            row = F.linear(row, self.tensors["head.pool.weight"], self.tensors["head.pool.bias"]).tanh()
        if "head.out.weight" in self.tensors:
            row = F.linear(row, self.tensors["head.out.weight"], self.tensors.get("head.out.bias"))
        elif self.shape.causal:  # tied to the embedding
            row = F.linear(row, self.tensors["embed.tokens.weight"])
        return F.normalize(row, dim=0) if self.shape.normalize else row

    def __call__(self, raw: Tensor) -> Tensor:
        """The one-device program: raw input of one request -> result [outputs]. The reference of every run."""
        x = torch.cat([self.class_token(), self.embed(raw, 0, raw.shape[0])])
        for layer in self.layers:
            x = layer(x)
        row = self.read_out(x, self.shape.prefix)
        return self.head(row / raw.shape[0] if self.shape.readout == "mean" else row)


class Weights(Protocol):
    """Where a device gets its share of a model from."""

    def load(self, layers: Span | None = None, heads: Span | None = None) -> Model:
        """These layers (default all) cut to these heads (all). Raises BadModel."""
        ...


@dataclass(frozen=True)
class Folder:
    """A converted model in a folder, loaded to a place of torch, "cpu" or "cuda": `Weights`."""

    path: Path
    place: str = "cpu"

    def load(self, layers: Span | None = None, heads: Span | None = None) -> Model:
        return load(self.path, layers, heads, self.place)


def load(folder: Path, layers: Span | None = None, heads: Span | None = None, place: str = "cpu") -> Model:
    """Load a share of a converted model: these layers (default all) cut to these heads (all). Raises BadModel."""
    shape = load_shape(folder)
    layers = layers or Span(0, shape.layers)
    try:
        with safe_open(folder / WEIGHTS, framework="pt", device=place) as file:
            rest = {n: file.get_tensor(n) for n in file.keys() if not n.startswith("layers.")}  # noqa: SIM118
            rotary = rest.pop("rotary.frequencies", None)
            loaded = [
                Layer(shape, _layer_weights(file, shape, i, heads), rotary, i) for i in range(layers.start, layers.stop)
            ]
    except (OSError, SafetensorError) as error:
        raise BadModel(f"{folder / WEIGHTS}: {error}") from None
    return Model(shape, rest, loaded)


def _layer_weights(file: safe_open, shape: Shape, index: int, heads: Span | None) -> dict[str, Tensor]:
    """One layer's tensors: q, k, v joined; rows (q, k, v, up, gate) or columns (o, down) cut to heads."""
    prefix = f"layers.{index}."
    names = [n.removeprefix(prefix) for n in file.keys() if n.startswith(prefix)]  # noqa: SIM118
    cut = _cuts(shape, heads or Span(0, shape.heads))
    whole = heads is None or len(heads) == shape.heads
    tensors = {}
    for name in names:
        module, kind = name.split(".")
        if whole or module not in cut or (module in ("o", "down") and kind == "bias"):
            tensors[name] = file.get_tensor(prefix + name)
        elif module in ("o", "down"):
            tensors[name] = file.get_slice(prefix + name)[:, cut[module].slice()].contiguous()
        else:
            tensors[name] = file.get_slice(prefix + name)[cut[module].slice()]
    for kind in ("weight", "bias"):
        if f"q.{kind}" in tensors:
            tensors[f"qkv.{kind}"] = torch.cat([tensors.pop(f"{m}.{kind}") for m in "qkv"])
    return tensors


def _cuts(shape: Shape, heads: Span) -> dict[str, Span]:
    """Rows or columns of each matrix that belong to a span of heads; hidden units in proportion. Raises BadModel."""
    if any(edge * shape.kv_heads % shape.heads for edge in (heads.start, heads.stop)):
        raise BadModel(f"heads {heads.start} to {heads.stop} split a group of queries that share keys and values")

    def scaled(total: int) -> Span:
        return Span(heads.start * total // shape.heads, heads.stop * total // shape.heads)

    own, kv, hidden = (scaled(n) for n in (shape.heads * shape.head_dim, shape.kv_width, shape.hidden))
    return {"q": own, "k": kv, "v": kv, "o": own, "up": hidden, "gate": hidden, "down": hidden}

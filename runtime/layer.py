"""The one Transformer layer that every family is converted to.

`layer(x)` *is* the one-device program. Methods distribute it through two seams and never through a branch in here:
`context` adds keys and values that other devices hold, `reduce` makes partial sums whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.plan import Span
from runtime.shape import Shape
from runtime.stages import Stages, untimed

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True)
class Part:
    """Keys and values of consecutive positions: k, v [KV heads, S, head_dim], rotary already applied to k."""

    k: Tensor
    v: Tensor
    start: int


Reduce = Callable[[Tensor], Tensor]


class Kept(ABC):
    """Parts that can be looked at again and again: what a device that goes on alone after the prompt keeps of them."""

    @abstractmethod
    def __iter__(self) -> Iterator[Part]:
        """The parts; what is not held as such is rebuilt, and not held afterwards."""

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """All that is held for it."""


class Context:
    """What a token may attend to beyond this device's own tokens: as it stands, nothing.

    A layer tells what it knows as soon as it knows it, so that it can travel while the device goes on computing, and
    asks for the parts of other devices once it needs them.
    """

    def tell_residual(self, layer: Layer, x: Tensor) -> None:
        """The layer's own input x [S, D] is known, before its norm."""

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        """The attention input h [S, D] is known."""

    def tell_keys_values(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        """K (before rotary) and V [S, KV heads x head_dim] are known."""

    def parts(self, layer: Layer) -> Iterable[Part]:
        """Keys and values of other devices' tokens; may block. Of what is smaller than these it may be a `Kept`."""
        return ()


class Given(Context):
    """Parts that are there already."""

    def __init__(self, *parts: Part) -> None:
        self._parts = parts

    def parts(self, layer: Layer) -> Iterable[Part]:
        return self._parts


alone = Context()


def as_is(partial: Tensor) -> Tensor:
    """The reduce of a device whose sums are whole already."""
    return partial


@dataclass(frozen=True)
class Attended:
    """Attention over some keys, not yet final: out [H, S, head_dim], logsumexp of the scores [H, S]."""

    out: Tensor
    logsumexp: Tensor

    def merge(self, other: Attended) -> Attended:
        """Online softmax: attention over both sets of keys. Exact."""
        total = torch.logaddexp(self.logsumexp, other.logsumexp)
        mine = (self.logsumexp - total).exp().unsqueeze(-1)
        theirs = (other.logsumexp - total).exp().unsqueeze(-1)
        return Attended(self.out * mine + other.out * theirs, total)


def visible(part: Span, queries: Span, causal: bool, place: torch.device | None = None) -> Tensor | bool:
    """May queries see the part: True (all of it), False (none), or an additive mask [S queries, S keys]."""
    if not causal or part.stop - 1 <= queries.start:
        return True
    if part.start >= queries.stop:
        return False
    rows = torch.arange(queries.start, queries.stop, device=place).unsqueeze(1)
    columns = torch.arange(part.start, part.stop, device=place).unsqueeze(0)
    return torch.zeros(len(queries), len(part), device=place).masked_fill_(columns > rows, float("-inf"))


def attend(q: Tensor, part: Part, start: int, causal: bool) -> Attended | None:
    """Attention of queries q [H, S, head_dim] at `start` to one part; None if the mask hides all of it."""
    diagonal = causal and part.start == start and part.k.shape[1] == q.shape[1]
    keys, queries = Span(part.start, part.start + part.k.shape[1]), Span(start, start + q.shape[1])
    seen = True if diagonal and q.is_cpu else visible(keys, queries, causal, q.device)
    if seen is False or len(keys) == 0:
        return None
    repeat = q.shape[0] // part.k.shape[0]
    k, v = (t.repeat_interleave(repeat, 0) if repeat > 1 else t for t in (part.k, part.v))
    if not q.is_cpu:
        return plainly(q, k, v, None if seen is True else seen)
    # The public scaled_dot_product_attention calls this very kernel on a CPU but drops the logsumexp we merge by.
    out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), is_causal=diagonal, attn_mask=None if seen is True else seen
    )
    return Attended(out[0], logsumexp[0])


def plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | bool | None) -> Attended:
    """Attention written out, for devices that have no kernel which tells the logsumexp in fp32: as exact, slower."""
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    scores = scores if mask is None else scores + mask
    return Attended(scores.softmax(-1) @ v, scores.logsumexp(-1))


class Layer:
    """Attention and MLP with their norms and residuals, for the heads (and hidden units) in `weights`.

    weights: `qkv.weight` [(H + 2 KV) head_dim, D], `o.weight` [D, H head_dim], `up.weight` [F, D], `gate.weight` where
    gated, `down.weight` [D, F], `norm1`, `norm2`, each with its `.bias` where the family has one. A layer cut to some
    heads holds the matching rows and columns, and returns partial sums to `reduce`; `o.bias` and `down.bias` are added
    once, after it.
    """

    def __init__(
        self, shape: Shape, weights: Mapping[str, Tensor], rotary: Tensor | None = None, index: int = 0
    ) -> None:
        self.shape, self.rotary, self.index = shape, rotary, index
        self.stages: Stages = untimed
        self.weights = dict(weights)
        self.heads = self.weights["o.weight"].shape[1] // shape.head_dim
        self.kv_heads = (self.weights["qkv.weight"].shape[0] // shape.head_dim - self.heads) // 2
        self._activate = ACTIVATIONS[shape.activation]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return normalize(self.shape, x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def attention_input(self, x: Tensor) -> Tensor:
        """What Q, K and V are computed from: x [S, D] after its norm (post-norm families: x is normed already)."""
        return self._norm("norm1", x) if self.shape.norm_first else x

    def split(self, flat: Tensor) -> Tensor:
        """[S, heads x head_dim] -> [heads, S, head_dim]."""
        return flat.view(flat.shape[0], -1, self.shape.head_dim).transpose(0, 1)

    def keys_values(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """K before rotary and V, each [S, KV heads x head_dim], of attention inputs h [S, D] of any positions."""
        rows = self.heads * self.shape.head_dim
        bias = self.weights.get("qkv.bias")
        flat = F.linear(h, self.weights["qkv.weight"][rows:], None if bias is None else bias[rows:])
        k, v = flat.chunk(2, -1)
        return k, v

    def part(self, k: Tensor, v: Tensor, start: int) -> Part:
        """Flat K (before rotary) and V of consecutive positions from `start` as a Part."""
        return Part(self.rotate(self.split(k), start), self.split(v), start)

    def rotate(self, heads: Tensor, start: int) -> Tensor:
        """Rotary positions `start`, start + 1, ... on [heads, S, head_dim]; unchanged where the family has none."""
        if self.rotary is None:
            return heads
        angles = torch.arange(start, start + heads.shape[1], device=heads.device).float().unsqueeze(
            1
        ) * self.rotary.unsqueeze(0)
        cos, sin = (torch.cat([t, t], -1) * self.shape.rotary_scale for t in (angles.cos(), angles.sin()))
        low, high = heads.chunk(2, -1)
        return heads * cos + torch.cat([-high, low], -1) * sin

    def project(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flat queries, keys (both before rotary) and values of attention inputs h [S, D]."""
        queries, kv = self.heads * self.shape.head_dim, self.kv_heads * self.shape.head_dim
        q, k, v = torch.split(self._linear("qkv", h), [queries, kv, kv], -1)
        return q, k, v

    def attend(self, q: Tensor, part: Part, start: int) -> Attended | None:
        """Attention of queries q [H, S, head_dim], the first at `start`, to a part; None if the mask hides it."""
        return attend(q, part, start, self.shape.causal)

    def __call__(self, x: Tensor, start: int = 0, context: Context = alone, reduce: Reduce = as_is) -> Tensor:
        """One layer on x [S, D], whose first row has position `start`. Called with x alone it is the whole model's."""
        stage, index = self.stages, self.index
        context.tell_residual(self, x)
        with stage("input", index):
            h = self.attention_input(x)
        context.tell_input(self, h)
        with stage("project", index):
            q, k, v = self.project(h)
        context.tell_keys_values(self, k, v)
        with stage("attention", index):
            q = self.rotate(self.split(q), start)
            attended = self.attend(q, self.part(k, v, start), start)
        assert attended is not None, "a token sees itself"
        for part in context.parts(self):
            with stage("remote", index):
                more = self.attend(q, part, start)
                attended = attended if more is None else attended.merge(more)
        with stage("output", index):
            partial = self.output(attended)
        whole = reduce(partial)
        with stage("mlp", index):
            x, partial = self.mlp(x, whole)
        whole = reduce(partial)
        with stage("residual", index):
            return self.residual(x, whole)

    def output(self, attended: Attended) -> Tensor:
        """Output projection of attention's result: a sum to be made whole [S, D]."""
        out = attended.out
        return F.linear(out.transpose(0, 1).reshape(out.shape[1], -1), self.weights["o.weight"])

    def mlp(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """x and attention's whole output, both [S, D] -> x with it added, and the MLP's sum to be made whole."""
        x = x + self._biased("o", attended)
        if not self.shape.norm_first:
            x = self._norm("norm1", x)
        h = self._norm("norm2", x) if self.shape.norm_first else x
        up = self._linear("up", h)
        inner = self._activate(self._linear("gate", h)) * up if self.shape.gated else self._activate(up)
        return x, F.linear(inner, self.weights["down.weight"])

    def residual(self, x: Tensor, summed: Tensor) -> Tensor:
        """x with the MLP's whole output added, both [S, D]."""
        x = x + self._biased("down", summed)
        return x if self.shape.norm_first else self._norm("norm2", x)

    def _biased(self, name: str, summed: Tensor) -> Tensor:
        bias = self.weights.get(f"{name}.bias")
        return summed if bias is None else summed + bias


def normalize(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """LayerNorm or RMSNorm, as the family has it."""
    if shape.norm == "rms":
        return F.rms_norm(x, (x.shape[-1],), weight, shape.norm_eps)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, shape.norm_eps)

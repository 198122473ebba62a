"""The one Transformer layer that every family is converted to.

`layer(x)` *is* the one-device program. Methods distribute it through two seams and never through a branch in here:
`context` adds keys and values that other devices hold, `reduce` makes partial sums whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.plan import Span
from runtime.shape import Shape

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


class Context:
    """What a token may attend to beyond this device's own tokens: as it stands, nothing.

    A layer tells what it knows as soon as it knows it, so that it can travel while the device goes on computing, and
    asks for the parts of other devices once it needs them.
    """

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        """The attention input h [S, D] is known."""

    def tell_keys_values(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        """K (before rotary) and V [S, KV heads x head_dim] are known."""

    def parts(self, layer: Layer) -> Iterable[Part]:
        """Keys and values of other devices' tokens; may block."""
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


def visible(part: Span, queries: Span, causal: bool) -> Tensor | bool:
    """May queries see the part: True (all of it), False (none), or an additive mask [S queries, S keys]."""
    if not causal or part.stop - 1 <= queries.start:
        return True
    if part.start >= queries.stop:
        return False
    rows = torch.arange(queries.start, queries.stop).unsqueeze(1)
    columns = torch.arange(part.start, part.stop).unsqueeze(0)
    return torch.zeros(len(queries), len(part)).masked_fill_(columns > rows, float("-inf"))


def attend(q: Tensor, part: Part, start: int, causal: bool) -> Attended | None:
    """Attention of queries q [H, S, head_dim] at `start` to one part; None if the mask hides all of it."""
    diagonal = causal and part.start == start and part.k.shape[1] == q.shape[1]
    keys, queries = Span(part.start, part.start + part.k.shape[1]), Span(start, start + q.shape[1])
    seen = True if diagonal else visible(keys, queries, causal)
    if seen is False or len(keys) == 0:
        return None
    repeat = q.shape[0] // part.k.shape[0]
    k, v = (t.repeat_interleave(repeat, 0) if repeat > 1 else t for t in (part.k, part.v))
    # The public scaled_dot_product_attention calls this very kernel on a CPU but drops the logsumexp we merge by.
    out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), is_causal=diagonal, attn_mask=None if seen is True else seen
    )
    return Attended(out[0], logsumexp[0])


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
        self._weights = dict(weights)
        self.heads = self._weights["o.weight"].shape[1] // shape.head_dim
        self.kv_heads = (self._weights["qkv.weight"].shape[0] // shape.head_dim - self.heads) // 2
        self._activate = ACTIVATIONS[shape.activation]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return normalize(self.shape, x, self._weights[f"{name}.weight"], self._weights.get(f"{name}.bias"))

    def attention_input(self, x: Tensor) -> Tensor:
        """What Q, K and V are computed from: x [S, D] after its norm (post-norm families: x is normed already)."""
        return self._norm("norm1", x) if self.shape.norm_first else x

    def split(self, flat: Tensor) -> Tensor:
        """[S, heads x head_dim] -> [heads, S, head_dim]."""
        return flat.view(flat.shape[0], -1, self.shape.head_dim).transpose(0, 1)

    def keys_values(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """K before rotary and V, each [S, KV heads x head_dim], of attention inputs h [S, D] of any positions."""
        rows = self.heads * self.shape.head_dim
        bias = self._weights.get("qkv.bias")
        flat = F.linear(h, self._weights["qkv.weight"][rows:], None if bias is None else bias[rows:])
        k, v = flat.chunk(2, -1)
        return k, v

    def part(self, k: Tensor, v: Tensor, start: int) -> Part:
        """Flat K (before rotary) and V of consecutive positions from `start` as a Part."""
        return Part(self.rotate(self.split(k), start), self.split(v), start)

    def rotate(self, heads: Tensor, start: int) -> Tensor:
        """Rotary positions `start`, start + 1, ... on [heads, S, head_dim]; unchanged where the family has none."""
        if self.rotary is None:
            return heads
        angles = torch.arange(start, start + heads.shape[1]).float().unsqueeze(1) * self.rotary.unsqueeze(0)
        cos, sin = (torch.cat([t, t], -1) * self.shape.rotary_scale for t in (angles.cos(), angles.sin()))
        low, high = heads.chunk(2, -1)
        return heads * cos + torch.cat([-high, low], -1) * sin

    def __call__(self, x: Tensor, start: int = 0, context: Context = alone, reduce: Reduce = as_is) -> Tensor:
        """One layer on x [S, D], whose first row has position `start`. Called with x alone it is the whole model's."""
        h = self.attention_input(x)
        context.tell_input(self, h)
        queries, kv = self.heads * self.shape.head_dim, self.kv_heads * self.shape.head_dim
        q, k, v = torch.split(self._linear("qkv", h), [queries, kv, kv], -1)
        context.tell_keys_values(self, k, v)
        q = self.rotate(self.split(q), start)
        attended = attend(q, self.part(k, v, start), start, self.shape.causal)
        assert attended is not None, "a token sees itself"
        for part in context.parts(self):
            more = attend(q, part, start, self.shape.causal)
            attended = attended if more is None else attended.merge(more)
        return self.finish(x, attended.out.transpose(0, 1).reshape(x.shape[0], queries), reduce)

    def finish(self, x: Tensor, attended: Tensor, reduce: Reduce = as_is) -> Tensor:
        """Output projection, residuals, norms and MLP, given attention's output [S, heads x head_dim]."""
        x = x + self._whole("o", attended, reduce)
        if not self.shape.norm_first:
            x = self._norm("norm1", x)
        h = self._norm("norm2", x) if self.shape.norm_first else x
        up = self._linear("up", h)
        inner = self._activate(self._linear("gate", h)) * up if self.shape.gated else self._activate(up)
        x = x + self._whole("down", inner, reduce)
        return x if self.shape.norm_first else self._norm("norm2", x)

    def _whole(self, name: str, partial: Tensor, reduce: Reduce) -> Tensor:
        summed = reduce(F.linear(partial, self._weights[f"{name}.weight"]))
        bias = self._weights.get(f"{name}.bias")
        return summed if bias is None else summed + bias


def normalize(shape: Shape, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """LayerNorm or RMSNorm, as the family has it."""
    if shape.norm == "rms":
        return F.rms_norm(x, (x.shape[-1],), weight, shape.norm_eps)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, shape.norm_eps)

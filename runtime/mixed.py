"""Mixed-precision attention on one machine, for a batch of requests: what ASTRA's devices compute together.

Written with one mask over `[own | coded]` keys where devices merge parts (`runtime.methods.astra`), so that either
checks the other; and with gradients, so that it is what training runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime.layer import Attended, Layer, normalize
from runtime.model import Model
from runtime.plan import Generation, Span
from runtime.sampling import Sampler

Quantize = Callable[[Layer, str, Tensor], Tensor]
"""(layer, stream: "residual", "input", "k" or "v", x [B, T, width] of content tokens) -> x as other devices see it."""


@dataclass(frozen=True)
class Holding:
    """Which device holds each content token: owners int64 [B, T], of so many devices.

    one_class_token: only device 0 has the class token, and nobody else sees it; else each has a copy of its own.
    heard: bool [layers, B, devices, devices], whether a device (first) has heard the codes of another; None: all are.
    """

    owners: Tensor
    devices: int
    one_class_token: bool = False
    heard: Tensor | None = None

    def copies(self, model: Model) -> int:
        """Rows of class tokens before the content."""
        return model.shape.prefix * (1 if self.one_class_token else self.devices)

    def to(self, place: str) -> Holding:
        """The same at a place of torch."""
        heard = None if self.heard is None else self.heard.to(place)
        return replace(self, owners=self.owners.to(place), heard=heard)


def contiguous(spans: Sequence[Span], batch: int) -> Holding:
    """Tokens in sequence order: device i has spans[i]."""
    owners = torch.cat([torch.full((len(span),), rank) for rank, span in enumerate(spans)])
    return Holding(owners.expand(batch, -1), len(spans))


def forward(model: Model, raw: Tensor, holding: Holding, streams: Collection[str], quantize: Quantize) -> Tensor:
    """raw [B, T, ...] -> hidden states after the last layer [B, C + T, D]: C class tokens, then content."""
    copies, tokens = holding.copies(model), raw.shape[1]
    content = torch.func.vmap(lambda one: model.embed(one, 0, tokens))(raw)
    x = torch.cat([model.class_token().expand(raw.shape[0], copies, -1), content], 1)
    everything = visible(model, holding, tokens)
    for layer in model.layers:
        mask = everything if holding.heard is None else visible(model, holding, tokens, holding.heard[layer.index])
        x = _layer(layer, x, mask, streams, quantize)
    return x


def alone(batch: int, tokens: int) -> Holding:
    """One device that has all: the model itself."""
    return Holding(torch.zeros(batch, tokens, dtype=torch.int64), 1)


def results(model: Model, raw: Tensor, holding: Holding, streams: Collection[str], quantize: Quantize) -> Tensor:
    """raw [B, T, ...] -> [B, outputs]: what devices return for each request."""
    return read_out(model, forward(model, raw, holding, streams, quantize), holding)


def read_out(model: Model, hidden: Tensor, holding: Holding) -> Tensor:
    """Hidden states [B, C + T, D] -> results [B, outputs]: copies of a class token are averaged after the norm."""
    copies = holding.copies(model)
    kept = {"first": hidden[:, : copies or 1], "last": hidden[:, -1:], "mean": hidden[:, copies:]}[model.shape.readout]
    rows = final_norm(model, kept).mean(1)
    return torch.func.vmap(model.head)(rows)


def generate(
    model: Model, prompt: Tensor, spans: Sequence[Span], streams: Collection[str], quantize: Quantize, how: Generation
) -> list[int]:
    """What the device of the last token says after ids [T], dealt out in these spans: all is computed anew for each
    token, and new ones are that device's own."""
    ids, sampler = prompt, Sampler(how)
    for _ in range(how.tokens):
        held = contiguous([*spans[:-1], Span(spans[-1].start, len(ids))], 1)
        token = sampler(results(model, ids.unsqueeze(0), held, streams, quantize)[0])
        ids = torch.cat([ids, ids.new_tensor([token])])
    new: list[int] = ids[len(prompt) :].tolist()
    return new


def next_tokens(model: Model, raw: Tensor, holding: Holding, streams: Collection[str], quantize: Quantize) -> Tensor:
    """Of a causal model: logits [B, T, vocabulary] of what follows each position of ids [B, T]."""
    rows = final_norm(model, forward(model, raw, holding, streams, quantize))
    logits: Tensor = torch.func.vmap(model.head)(rows.flatten(0, 1))
    return logits.view(*rows.shape[:2], -1)


def final_norm(model: Model, hidden: Tensor) -> Tensor:
    """What `Model.read_out` applies before the head, to rows of any shape [..., D]."""
    weight = model.tensors.get("head.norm.weight")
    return hidden if weight is None else normalize(model.shape, hidden, weight, model.tensors.get("head.norm.bias"))


def visible(model: Model, holding: Holding, tokens: int, heard: Tensor | None = None) -> Tensor:
    """May a query see a key: [B, 1, C + T, (C + T) + T], first the keys as they are, then the coded content, which is
    left out where one device has all. heard: bool [B, devices, devices], of the layer; None: all."""
    batch, copies = holding.owners.shape[0], holding.copies(model)
    place = holding.owners.device
    owners = torch.cat([torch.arange(copies, device=place).expand(batch, -1), holding.owners], 1)
    own = owners.unsqueeze(2) == owners.unsqueeze(1)
    coded = ~own[:, :, copies:]
    if heard is not None:
        by_query = heard.gather(1, owners.unsqueeze(2).expand(-1, -1, holding.devices))
        coded = coded & by_query.gather(2, holding.owners.unsqueeze(1).expand(-1, owners.shape[1], -1))
    if model.shape.causal:
        order = torch.arange(tokens, device=place)
        past = order.unsqueeze(1) >= order.unsqueeze(0)
        own, coded = own & past, coded & past
    return (own if holding.devices == 1 else torch.cat([own, coded], 2)).unsqueeze(1)


def _layer(layer: Layer, x: Tensor, mask: Tensor, streams: Collection[str], quantize: Quantize) -> Tensor:
    """One layer on x [B, C + T, D]."""
    batch, rows, _ = x.shape
    h = layer.attention_input(x)
    q, k, v = layer.project(h)
    keys, values = _heads(layer, k, True), _heads(layer, v)
    if coded := mask.shape[-1] - rows:
        if "residual" in streams:
            k, v = layer.keys_values(layer.attention_input(quantize(layer, "residual", x[:, -coded:])))
        elif "input" in streams:
            k, v = layer.keys_values(quantize(layer, "input", h[:, -coded:]))
        else:
            k, v = (quantize(layer, name, one[:, -coded:]) for name, one in (("k", k), ("v", v)))
        keys, values = torch.cat([keys, _heads(layer, k, True)], 2), torch.cat([values, _heads(layer, v)], 2)
    repeat = layer.heads // layer.kv_heads
    keys, values = (t.repeat_interleave(repeat, 1) if repeat > 1 else t for t in (keys, values))
    out = F.scaled_dot_product_attention(_heads(layer, q, True), keys, values, mask)
    flat = out.transpose(0, 1).reshape(layer.heads, batch * rows, -1)
    x, partial = layer.mlp(x, layer.output(Attended(flat, flat)).view(batch, rows, -1))
    return layer.residual(x, partial)


def _heads(layer: Layer, flat: Tensor, rotated: bool = False) -> Tensor:
    """[B, S, heads x head_dim] -> [B, heads, S, head_dim], position 0 first; rotary models have no class token."""
    batch, rows, width = flat.shape
    heads = flat.view(batch, rows, width // layer.shape.head_dim, -1).transpose(1, 2)
    return layer.rotate(heads.flatten(0, 1), 0).view_as(heads) if rotated else heads

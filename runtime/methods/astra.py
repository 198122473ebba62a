"""ASTRA (arXiv 2505.19342): tokens are split, and devices send vector-quantized codes of them instead of activations.

In each layer a device codes its own tokens and sends the packed codes at once; its own queries, keys, values and the
attention among its own tokens are computed while the codes travel; what the others sent is merged by online softmax.
The class token is copied to every device, never sent, and averaged after the final norm. What is coded is the layer
input after its norm, so that K and V are linear in the codeword; in grouped-query models K before rotary and V are
coded instead, as they are smaller; or, on demand, the layer input before its norm, which receivers then apply to what
they decoded (families that norm after the layer have their input normed already: both are one there). In causal models
only later devices need the codes.

Codes may travel over UDP, each datagram once: tokens whose codes have not come by a layer's deadline are masked out of
the softmax there, and counted. See `runtime.methods.carry`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.codecs.kmeans import kmeans
from runtime.codecs.vq import GroupedVQ, code_bits, packed_bytes
from runtime.collectives import Exchange
from runtime.hollow import HollowModel, HollowTable, HollowVQ
from runtime.layer import Context, Kept, Layer, Part
from runtime.methods import carry
from runtime.methods.activations import Activations
from runtime.methods.method import Method
from runtime.methods.sequence import neighbours
from runtime.methods.split import SplitOptions
from runtime.model import Weights, load
from runtime.plan import Plan
from runtime.shape import Shape
from runtime.stages import Timed
from runtime.transport.gather import Arrived

CODES = ("auto", "input", "residual", "kv")


@dataclass(frozen=True)
class AstraOptions(SplitOptions):
    """groups G, codewords K of each; code: "input", "residual" (the input before its norm), "kv", or "auto" (kv for
    grouped-query models, else input).

    transport: "tcp" or "udp"; deadline: over UDP, how long the codes of a layer are waited for, such as "20 ms".
    """

    groups: int = 1
    codewords: int = 1024
    code: str = "auto"
    transport: str = "tcp"
    deadline: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.groups, int) or isinstance(self.groups, bool) or self.groups < 1:
            raise ValueError(f"groups is a whole number of at least 1, not {self.groups!r}")
        if not isinstance(self.codewords, int) or isinstance(self.codewords, bool):
            raise ValueError(f"codewords is a power of two from 2 to 65536, not {self.codewords!r}")
        code_bits(self.codewords)
        if self.code not in CODES:
            raise ValueError(f'code is "auto", "input", "residual" or "kv", not {self.code!r}')
        if self.transport not in ("tcp", "udp"):
            raise ValueError(f'transport is "tcp" or "udp", not {self.transport!r}')
        if self.deadline is not None and self.transport == "tcp":
            raise ValueError("deadline is for transport: udp; over tcp nothing is lost, and everything is waited for")
        if self.deadline is not None:
            carry.seconds(self.deadline)

    @property
    def deadline_s(self) -> float:
        """How long the codes of a layer are waited for over UDP; whoever knows the links leaves none open (`timed`)."""
        return carry.DEADLINE_S if self.deadline is None else carry.seconds(self.deadline)


def streams(shape: Shape, options: AstraOptions) -> dict[str, int]:
    """Names and widths of what is coded in each layer: one stream (C = 1) or two (C = 2)."""
    coded = options.code if options.code != "auto" else ("kv" if shape.kv_heads < shape.heads else "input")
    return {"k": shape.kv_width, "v": shape.kv_width} if coded == "kv" else {coded: shape.width}


def datagrams_of(shape: Shape, options: AstraOptions) -> carry.Coded:
    """What is sent of each token in each layer, and how long it is waited for over UDP."""
    bits = options.groups * code_bits(options.codewords)
    return carry.Coded(bits, len(streams(shape, options)), options.deadline_s)


class Astra(Method):
    """T/N content tokens per device, all weights and all codebooks on each. `extra` is the file of codebooks."""

    Options = AstraOptions
    cuts = "tokens"
    equals_single = False
    own_class_token = True
    generates = True

    def __init__(
        self, weights: Weights, plan: Plan, rank: int, extra: Path | None = None, stages: Timed | None = None
    ) -> None:
        super().__init__(weights, plan, rank, extra, stages)
        names, layers = streams(self.model.shape, self.options), self.model.layers
        tabled = self.options.groups == 1 and "k" not in names
        self.codecs: list[dict[str, GroupedVQ | HollowVQ]]
        self.tables: list[Table | HollowTable | None]
        if isinstance(self.model, HollowModel):
            sizes = self.options.groups, code_bits(self.options.codewords), self.model.nothing
            self.codecs = [{name: HollowVQ(width, *sizes) for name, width in names.items()} for _ in layers]
            self.tables = [HollowTable(self.model.shape.kv_width, sizes[-1]) if tabled else None for _ in layers]
            return
        if extra is None:
            raise ValueError("astra needs a file of codebooks")
        books = load_file(extra, device=str(self.model.place))
        self.codecs = [{name: GroupedVQ(books[f"layers.{layer.index}.{name}"]) for name in names} for layer in layers]
        (name, *_) = names
        self.tables = [
            Table(layer, normed(layer, name, books[f"layers.{layer.index}.{name}"][0])) if tabled else None
            for layer in layers
        ]

    @classmethod
    def refuse(cls, shape: Shape, options: AstraOptions, devices: int) -> str | None:
        for name, width in streams(shape, options).items():
            if width % options.groups:
                return f"the coded {name} of width {width} cannot be cut into {options.groups} groups"
        if options.transport == "udp":
            return datagrams_of(shape, options).refusal()
        return None

    @classmethod
    def payload_bytes(cls, shape: Shape, options: AstraOptions, plan: Plan, rank: int) -> int:
        """(N-1) · L · C · ceil(T_r · G·log2(K) / 8), T_r content tokens; in causal models to later devices only.

        As much over UDP: datagrams are cut where a token and a byte end together.
        """
        receivers = plan.world - 1 - rank if shape.causal else plan.world - 1
        once = packed_bytes(len(plan.shares[rank].tokens), options.groups, code_bits(options.codewords))
        return receivers * shape.layers * len(streams(shape, options)) * once

    @classmethod
    def timed(cls, options: AstraOptions, on_the_way_s: float) -> dict[str, Any]:
        """The deadline of codes over UDP: how far devices may be apart, and as long as codes are on their way."""
        if options.transport != "udp" or options.deadline is not None:
            return {}
        return {"deadline": f"{math.ceil(1e3 * (carry.DEADLINE_S + on_the_way_s))} ms"}

    @classmethod
    def deadline_s(cls, options: AstraOptions) -> float:
        """Of codes over UDP."""
        return options.deadline_s if options.transport == "udp" else 0.0

    @classmethod
    def kept_bytes(cls, shape: Shape, options: AstraOptions, plan: Plan) -> int:
        """L · C · ceil(T_r · G·log2(K) / 8) of each device r but the last: codes as they came, nothing rebuilt."""
        before = (len(share.tokens) for share in plan.shares[:-1])
        packed = sum(packed_bytes(count, options.groups, code_bits(options.codewords)) for count in before)
        return shape.layers * len(streams(shape, options)) * packed

    @classmethod
    def sample_tokens(cls, options: AstraOptions) -> int:
        """Four for each codeword."""
        return 4 * options.codewords

    @classmethod
    def prepared_from(cls, options: AstraOptions) -> dict[str, object]:
        """How codes travel, and who holds which tokens, is nothing to codebooks."""
        return {"groups": options.groups, "codewords": options.codewords, "code": options.code}

    @classmethod
    def prepare(cls, folder: Path, options: AstraOptions, samples: Sequence[Tensor], out: Path) -> None:
        """k-means codebooks of the model's own activations on sample inputs. Raises ValueError if they are too few."""
        model = load(folder)
        seen = Activations(streams(model.shape, options), model.shape.prefix)
        for raw in samples:
            x = torch.cat([model.class_token(), model.embed(raw, 0, raw.shape[0])])
            for layer in model.layers:
                x = layer(x, 0, seen)
        books = {}
        for name, rows in seen.rows.items():
            x = torch.cat(rows)
            grouped = x.view(x.shape[0], options.groups, -1).transpose(0, 1).contiguous()
            books[name] = kmeans(grouped, options.codewords)
        save_file(books, out)

    @property
    def datagrams(self) -> bool:
        """Whether codes travel over UDP."""
        return bool(self.options.transport == "udp")

    @property
    def start(self) -> int:
        """Position of the first row; a class token's copy stands before it without a place in the order."""
        return self.share.tokens.start

    def context(self, exchange: Exchange) -> Context:
        return CodedContext(self, exchange)


def normed(layer: Layer, stream: str, x: Tensor) -> Tensor:
    """Attention inputs [T, D] of what a stream that is no K or V was decoded to."""
    return layer.attention_input(x) if stream == "residual" else x


class Table:
    """Keys and values of one layer by code, where a vector is one code: a lookup in place of a product."""

    def __init__(self, layer: Layer, codewords: Tensor) -> None:
        """codewords [K, D], as attention inputs."""
        self._rows = torch.cat(layer.keys_values(codewords), -1)

    def keys_values(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """K before rotary and V, each [T, KV width], of codes [T, 1]."""
        k, v = self._rows.index_select(0, codes[:, 0]).chunk(2, -1)
        return k, v


class CodedContext(Context):
    """What other devices' tokens look like through their codes."""

    def __init__(self, method: Astra, exchange: Exchange) -> None:
        self._method = method
        plan, rank, causal = method.plan, method.rank, method.model.shape.causal
        others = [r for r in range(plan.world) if r != rank]
        self._receivers = [r for r in others if r > rank] if causal else others
        self._senders = [r for r in others if r < rank] if causal else others
        self._carrier = carry.Frames(exchange, self._receivers, self._senders)
        if method.datagrams:
            coded = datagrams_of(method.model.shape, method.options)
            self._carrier = carry.Datagrams(exchange, plan, self._receivers, self._senders, coded)

    def tell_residual(self, layer: Layer, x: Tensor) -> None:
        if "residual" in self._method.codecs[layer.index]:
            self._send(layer, {"residual": x})

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        if "input" in self._method.codecs[layer.index]:
            self._send(layer, {"input": h})

    def tell_keys_values(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        if "k" in self._method.codecs[layer.index]:
            self._send(layer, {"k": k, "v": v})

    def _send(self, layer: Layer, coded: dict[str, Tensor]) -> None:
        if not self._receivers:
            return
        prefix = self._method.model.shape.prefix
        with layer.stages("encode", layer.index, "code"):
            codecs = self._method.codecs[layer.index]
            packed = [codec.pack(coded[name][prefix:].contiguous()) for name, codec in codecs.items()]
            frame = self._method.model.joined(packed)
        self._carrier.send(layer.index, frame)

    def parts(self, layer: Layer) -> Kept:
        return Codes(self, layer, self._carrier.take(layer.index))

    def rebuilt(self, layer: Layer, received: Mapping[int, Arrived]) -> Iterator[Part]:
        """Keys and values of what other devices sent in a layer, by rank."""
        tokens = [share.tokens for share in self._method.plan.shares]
        for ranks in neighbours(layer, self._method.rank, self._senders):
            with layer.stages("decode", layer.index, "code"):
                decoded = self._decoded(layer.index, {rank: received[rank].frame for rank in ranks})
            with layer.stages("expand", layer.index):
                k, v = self._expanded(layer, decoded) if isinstance(decoded, Tensor) else decoded
                part = layer.part(k, v, tokens[ranks[0]].start)
                part = carry.heard(part, [received[rank] for rank in ranks], [len(tokens[rank]) for rank in ranks])
            yield part

    def _decoded(self, index: int, frames: Mapping[int, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """Frames by rank -> inputs of their tokens, of which K and V are to be computed, or these at once."""
        codecs, table = self._method.codecs[index], self._method.tables[index]
        unpacked = [self._unpack(codecs, rank, frame) for rank, frame in frames.items()]
        codes = {name: self._method.model.joined([one[name] for one in unpacked]) for name in codecs}
        if "k" in codecs:
            return codecs["k"].decode(codes["k"]), codecs["v"].decode(codes["v"])
        ((name, one),) = codes.items()
        return codecs[name].decode(one) if table is None else table.keys_values(one)

    def _expanded(self, layer: Layer, decoded: Tensor) -> tuple[Tensor, Tensor]:
        (name,) = self._method.codecs[layer.index]
        return layer.keys_values(normed(layer, name, decoded))

    def _unpack(self, codecs: Mapping[str, GroupedVQ | HollowVQ], rank: int, frame: Tensor) -> dict[str, Tensor]:
        tokens, packed = len(self._method.plan.shares[rank].tokens), frame.chunk(len(codecs))
        return {name: codec.unpack(one, tokens) for one, (name, codec) in zip(packed, codecs.items(), strict=True)}


class Codes(Kept):
    """Other devices' tokens in one layer as their packed codes, just as they came."""

    def __init__(self, context: CodedContext, layer: Layer, received: Mapping[int, Arrived]) -> None:
        self._context, self._layer, self._received = context, layer, received

    def __iter__(self) -> Iterator[Part]:
        return self._context.rebuilt(self._layer, self._received)

    def tensors(self) -> list[Tensor]:
        return [arrived.frame for arrived in self._received.values()]

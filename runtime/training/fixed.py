"""What others see of layer inputs by rules that learn nothing, with gradients: the rivals of learned codes in training.

The codecs are those of the distributed methods (sequence+int8, prism, topk), in the seat that `runtime.mixed` has for
codes: every device has its own tokens as they are, and a class token of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from runtime.codecs.integer import Integer
from runtime.codecs.topk import LargestFeatures
from runtime.layer import Layer
from runtime.methods.coding import CODECS
from runtime.methods.prism import SegmentMeans
from runtime.plan import even_spans


@dataclass(frozen=True)
class Rounded:
    """Integers of 8 or 4 bits; gradients go on as if nothing had been (straight-through)."""

    bits: int

    def __call__(self, layer: Layer, stream: str, x: Tensor) -> Tensor:
        return x + (Integer(self.bits).rebuilt(x.detach()) - x).detach()

    def row_bytes(self, rows: int, width: int) -> float:
        """Of one of so many tokens that a device sends together."""
        return Integer(self.bits).packed_bytes(rows, width) / rows


@dataclass(frozen=True)
class Largest:
    """The `keep` largest features of each token, the others zero."""

    keep: int

    def __call__(self, layer: Layer, stream: str, x: Tensor) -> Tensor:
        return LargestFeatures(self.keep).rebuilt(x)

    def row_bytes(self, rows: int, width: int) -> float:
        """Of one of so many tokens that a device sends together."""
        return LargestFeatures(self.keep).packed_bytes(rows, width) / rows


@dataclass(frozen=True)
class Averaged:
    """Means of `segments` segments of each device's tokens, which are consecutive and evenly many, as `codec` packs
    them. A mean that is seen in the place of each of its tokens counts in the softmax as often as `Prism` has it."""

    segments: int
    devices: int
    codec: str = "fp32"

    def __call__(self, layer: Layer, stream: str, x: Tensor) -> Tensor:
        means = SegmentMeans(self.segments, CODECS[self.codec])
        spans = even_spans(x.shape[1], self.devices)
        seen = torch.cat([means.rebuilt(x[:, span.slice()]) for span in spans], 1)
        if self.codec == "fp32":
            return seen
        plain = SegmentMeans(self.segments, CODECS["fp32"])
        smooth = torch.cat([plain.rebuilt(x[:, span.slice()]) for span in spans], 1)
        return smooth + (seen - smooth).detach()  # rounding passes gradients on, averaging has its own

    def row_bytes(self, rows: int, width: int) -> float:
        """Of one of so many tokens that a device sends together."""
        return SegmentMeans(self.segments, CODECS[self.codec]).packed_bytes(rows, width) / rows

"""Top-k sparsification: of every vector its k largest features by magnitude, as indices and values; the rest is 0."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.codecs import vq

VALUE_BYTES = 2


class LargestFeatures:
    """Rows of activations as their `keep` largest features each.

    **decided**: values are fp16 (half the bytes of fp32; what comes from a norm stays far below its 65504), indices
    have ceil(log2 W) bits and are packed without a gap.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep

    def packed_bytes(self, rows: int, width: int) -> int:
        """2·T·k + ceil(T·k·ceil(log2 W) / 8)."""
        return rows * self.keep * VALUE_BYTES + vq.packed_bytes(rows, self.keep, index_bits(width))

    def pack(self, x: Tensor) -> Tensor:
        """x [T, W] -> uint8 [packed_bytes] on the CPU: values, then indices."""
        index, values = self._largest(x)
        packed = vq.pack(index, index_bits(x.shape[-1]))
        return torch.cat([values.reshape(-1).view(torch.uint8).cpu(), packed])

    def unpack(self, packed: Tensor, rows: int, width: int) -> Tensor:
        """The inverse: uint8 -> x̂ [T, W]."""
        edge = rows * self.keep * VALUE_BYTES
        values = packed[:edge].view(torch.float16).view(rows, self.keep).float()
        index = vq.unpack(packed[edge:].cpu(), rows, self.keep, index_bits(width)).to(packed.device)
        return torch.zeros(rows, width, device=packed.device).scatter(-1, index, values)

    def rebuilt(self, x: Tensor) -> Tensor:
        """x [..., W] as the receiver has it, bit for bit; gradients flow through what is kept."""
        index, values = self._largest(x)
        return torch.zeros_like(x).scatter(-1, index, values.float())

    def _largest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and fp16 values, both [..., k]."""
        index = x.abs().topk(self.keep, -1, sorted=False).indices
        return index, x.gather(-1, index).half()


def index_bits(width: int) -> int:
    """Bits that number so many features."""
    return max(1, (width - 1).bit_length())

"""Integer codecs: activations in blocks of 64 values, each block with one scale, rounded to 8 or 4 bits.

Symmetric: a value is its level times the scale of its block, levels from -127 to 127 or from -7 to 7, and the scale is
the largest magnitude of the block over the top level. **decided**: scales are fp16, which costs a quarter of a bit per
value; levels are chosen by the scale as it travels, so that both ends mean the same. A block never reaches into the
next row, so that every token stands by itself. What is not finite stays visible: nothing of its block is finite then.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64
SCALE_BYTES = 2


class Integer:
    """Rows of activations as scales, then levels: of 4 bits two in a byte, the lower half first."""

    def __init__(self, bits: int) -> None:
        """bits: 8 or 4."""
        self.bits, self.top = bits, 2 ** (bits - 1) - 1

    def packed_bytes(self, rows: int, width: int) -> int:
        """2·T·ceil(W/64) + ceil(T·W·bits/8)."""
        return rows * _blocks(width) * SCALE_BYTES + -(-rows * width * self.bits // 8)

    def pack(self, x: Tensor) -> Tensor:
        """x [T, W] -> uint8 [packed_bytes]."""
        levels, scales = self._levels(x)
        flat = levels.reshape(-1).view(torch.uint8)
        if self.bits == 4:
            flat = F.pad(flat, (0, flat.numel() % 2))
            flat = (flat[0::2] & 15) | (flat[1::2] << 4)
        return torch.cat([scales.reshape(-1).view(torch.uint8), flat])

    def unpack(self, packed: Tensor, rows: int, width: int) -> Tensor:
        """The inverse: uint8 -> x̂ [T, W]."""
        edge = rows * _blocks(width) * SCALE_BYTES
        scales, flat = packed[:edge].view(torch.float16), packed[edge:]
        if self.bits == 4:
            halves = torch.stack([flat & 15, flat >> 4], -1).flatten()[: rows * width]
            flat = (halves ^ 8) - 8  # the sign of a half, spread over the byte
        return _values(flat.view(torch.int8).view(rows, width), scales.view(rows, _blocks(width)))

    def rebuilt(self, x: Tensor) -> Tensor:
        """x [..., W] as the receiver has it, bit for bit; rounding lets no gradient through."""
        return _values(*self._levels(x))

    def _levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., W] -> levels int8 [..., W], scales fp16 [..., ceil(W/64)]."""
        blocks = _in_blocks(x)
        scales = (blocks.abs().amax(-1) / self.top).half()
        # A scale that is too small for fp16 is 0, and so is its block.
        levels = blocks / scales.float().clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)
        levels = levels.round().clamp(-self.top, self.top).to(torch.int8)
        return levels.flatten(-2)[..., : x.shape[-1]], scales


def _values(levels: Tensor, scales: Tensor) -> Tensor:
    return (_in_blocks(levels.float()) * scales.float().unsqueeze(-1)).flatten(-2)[..., : levels.shape[-1]]


def _in_blocks(x: Tensor) -> Tensor:
    """[..., W] -> [..., ceil(W/64), 64], filled up with zeros."""
    width = x.shape[-1]
    return F.pad(x, (0, -width % BLOCK)).reshape(*x.shape[:-1], _blocks(width), BLOCK)


def _blocks(width: int) -> int:
    return -(-width // BLOCK)

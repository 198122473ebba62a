"""Grouped vector quantization: a vector is cut into G sub-vectors, each coded as the index of its nearest codeword."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class GroupedVQ:
    """Codes vectors of one kind (one layer's input, its K, or its V).

    codebook: [G, K, D/G] float32, K a power of two; the same on every device, bit for bit.
    """

    def __init__(self, codebook: Tensor) -> None:
        self.codebook = codebook
        self.groups, self.codewords, self.group_width = codebook.shape
        self.bits = code_bits(self.codewords)
        self._transposed = codebook.transpose(1, 2).contiguous()
        self._half_squares = codebook.square().sum(-1).mul_(0.5).unsqueeze(1)

    def encode(self, x: Tensor) -> Tensor:
        """x [T, D] -> codes [T, G] int64; ties go to the lowest index.

        argmin |x - e|² = argmax x·e - |e|²/2: one product instead of all differences.
        """
        grouped = x.view(x.shape[0], self.groups, self.group_width).transpose(0, 1)
        return torch.baddbmm(self._half_squares, grouped, self._transposed, beta=-1).argmax(-1).T

    def decode(self, codes: Tensor) -> Tensor:
        """codes [T, G] -> x̂ [T, D]."""
        return self.codebook[torch.arange(self.groups, device=codes.device), codes].reshape(codes.shape[0], -1)

    def pack(self, x: Tensor) -> Tensor:
        """x [T, D] -> its codes as they are sent, uint8."""
        return pack(self.encode(x), self.bits)

    def unpack(self, packed: Tensor, tokens: int) -> Tensor:
        """The codes [T, G] of so many tokens, as they came."""
        return unpack(packed, tokens, self.groups, self.bits).to(self.codebook.device)


def code_bits(codewords: int) -> int:
    """Bits of one code. Raises ValueError unless `codewords` is a power of two from 2 to 65536."""
    if codewords < 2 or codewords > 65536 or codewords & (codewords - 1):
        raise ValueError(f"codewords is a power of two from 2 to 65536, not {codewords}")
    return codewords.bit_length() - 1


def packed_bytes(tokens: int, groups: int, bits: int) -> int:
    """Size of the packed codes of `tokens` vectors."""
    return -(-tokens * groups * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """codes [T, G] -> uint8 [ceil(T·G·bits / 8)], most significant bit first, the last byte padded with zeros."""
    flat = codes.reshape(-1).cpu().numpy().astype(np.uint16)
    spread = flat.astype(">u2").view(np.uint8).reshape(-1, 2)
    return torch.from_numpy(np.packbits(np.unpackbits(spread, axis=1)[:, 16 - bits :]))


def unpack(packed: Tensor, tokens: int, groups: int, bits: int) -> Tensor:
    """The inverse of `pack`: uint8 -> codes [tokens, groups] int64."""
    unpacked = np.unpackbits(packed.cpu().numpy(), count=tokens * groups * bits).reshape(-1, bits)
    padded = np.zeros((unpacked.shape[0], 16), np.uint8)
    padded[:, 16 - bits :] = unpacked
    codes = np.packbits(padded, axis=1).view(">u2").astype(np.int64)
    return torch.from_numpy(codes.reshape(tokens, groups))

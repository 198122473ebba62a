"""What a device that goes on alone after the prompt knows of the tokens before: the cache of keys and values.

Of its own tokens, keys and values in full precision. Of the others', what the method's context brought in each layer,
in the form in which that wants to be kept: as the parts that they are, or as something smaller from which parts are
rebuilt whenever they are looked at (`runtime.layer.Kept`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from runtime.layer import Context, Kept, Layer, Part


class Parts(Kept):
    """Kept as they came, by themselves: not as views of something larger."""

    def __init__(self, parts: Iterable[Part]) -> None:
        whole = torch.contiguous_format
        self._parts = [replace(p, k=p.k.clone(memory_format=whole), v=p.v.clone(memory_format=whole)) for p in parts]

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts)

    def tensors(self) -> list[Tensor]:
        return [tensor for part in self._parts for tensor in (part.k, part.v)]


class Memory(Context):
    """The context of each new token, which is then one of those before.

    start: position of the first of this device's own tokens; room: how many there may be, of the prompt and new.
    """

    def __init__(self, start: int, room: int) -> None:
        self._start, self._room = start, room
        self._own: dict[int, tuple[Tensor, Tensor]] = {}  # K with rotary and V, each [KV heads, room, head_dim]
        self._others: dict[int, Kept] = {}
        self._filled: dict[int, int] = {}

    @property
    def position(self) -> int:
        """Of the next token."""
        return self._start + max(self._filled.values(), default=0)

    @property
    def held_bytes(self) -> int:
        """Memory of all tensors that are held."""
        own = [tensor for pair in self._own.values() for tensor in pair]
        others = [tensor for kept in self._others.values() for tensor in kept.tensors()]
        return sum(tensor.untyped_storage().nbytes() for tensor in (*own, *others))

    def add(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        """K (before rotary) and V [S, KV width] of this device's next tokens."""
        filled = self._filled.get(layer.index, 0)
        part = layer.part(k, v, self._start + filled)
        if layer.index not in self._own:
            heads, _, width = part.k.shape
            self._own[layer.index] = (
                part.k.new_empty(heads, self._room, width),
                part.v.new_empty(heads, self._room, width),
            )
        self._filled[layer.index] = upto = filled + part.k.shape[1]
        for held, fresh in zip(self._own[layer.index], (part.k, part.v), strict=True):
            held[:, filled:upto] = fresh

    def keep(self, layer: Layer, seen: Iterable[Part]) -> Kept:
        """What other devices' tokens looked like in a layer, to be looked at again."""
        self._others[layer.index] = kept = seen if isinstance(seen, Kept) else Parts(seen)
        return kept

    def tell_keys_values(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        self.add(layer, k, v)

    def parts(self, layer: Layer) -> Iterator[Part]:
        """This device's tokens up to the new one, which knows itself, and the other devices'."""
        before = self._filled[layer.index] - 1
        k, v = self._own[layer.index]
        yield Part(k[:, :before], v[:, :before], self._start)
        yield from self._others.get(layer.index, ())


class Remembering(Context):
    """The context of the prompt, whatever it is, and a memory that is filled meanwhile."""

    def __init__(self, context: Context, memory: Memory) -> None:
        self._context, self._memory = context, memory

    def tell_residual(self, layer: Layer, x: Tensor) -> None:
        self._context.tell_residual(layer, x)

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        self._context.tell_input(layer, h)

    def tell_keys_values(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        self._context.tell_keys_values(layer, k, v)
        self._memory.add(layer, k, v)

    def parts(self, layer: Layer) -> Iterable[Part]:
        return self._memory.keep(layer, self._context.parts(layer))


def full_bytes(layers: int, kv_width: int, tokens: int) -> int:
    """L · 2 · KV width · b for each token: keys and values in full precision."""
    return layers * 2 * kv_width * torch.float32.itemsize * tokens

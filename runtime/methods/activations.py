"""What would be coded, as a one-device run of a model shows it: what codebooks are made from."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from runtime.layer import Context, Layer


class Activations(Context):
    """Listens to a one-device run and keeps what would be coded: rows[`layers.<i>.<stream>`] = [T, width] each."""

    def __init__(self, names: Iterable[str], prefix: int) -> None:
        self.rows: dict[str, list[Tensor]] = {}
        self._names, self._prefix = list(names), prefix

    def _keep(self, layer: Layer, name: str, x: Tensor) -> None:
        if name in self._names:
            self.rows.setdefault(f"layers.{layer.index}.{name}", []).append(x[self._prefix :])

    def tell_residual(self, layer: Layer, x: Tensor) -> None:
        self._keep(layer, "residual", x)

    def tell_input(self, layer: Layer, h: Tensor) -> None:
        self._keep(layer, "input", h)

    def tell_keys_values(self, layer: Layer, k: Tensor, v: Tensor) -> None:
        self._keep(layer, "k", k)
        self._keep(layer, "v", v)

"""What every method is: options, a cut, a byte formula, and a pass through the layers that this device holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from runtime.collectives import Exchange
from runtime.layer import Context, alone
from runtime.memory import full_bytes
from runtime.model import Model, Weights
from runtime.plan import Plan, Span
from runtime.shape import Shape
from runtime.stages import Timed

FLOAT_BYTES = 4


@dataclass(frozen=True)
class NoOptions:
    """A method with nothing to choose."""


class Method:
    """One device's part of one method; subclasses override what differs from running alone.

    cuts: which side of the box tokens x layers x heads is divided among devices.
    equals_single: the output is the model's own, to rounding. own_class_token: every device has a copy of it.
    generates: after a prompt the device of the last token can go on alone, by what its `context` told it of the others.
    """

    Options: ClassVar[type] = NoOptions
    cuts: ClassVar[Literal["nothing", "tokens", "layers", "heads"]] = "nothing"
    equals_single: ClassVar[bool] = True
    own_class_token: ClassVar[bool] = False
    generates: ClassVar[bool] = False

    def __init__(
        self, weights: Weights, plan: Plan, rank: int, extra: Path | None = None, stages: Timed | None = None
    ) -> None:
        """Load this rank's share of the model; `extra` is what `prepare` wrote. Raises BadModel."""
        self.plan, self.rank, self.extra, self.stages = plan, rank, extra, stages or Timed()
        self.share = plan.shares[rank]
        self.options = self.Options(**plan.options)
        self.model = self.load_model(weights)
        for layer in self.model.layers:
            layer.stages = self.stages

    def load_model(self, weights: Weights) -> Model:
        """The weights that this device needs: by default the layers of its share, whole."""
        return weights.load(layers=self.share.layers)

    @property
    def datagrams(self) -> bool:
        """Whether it sends datagrams, which may be lost, beside frames: it needs a mesh that has them."""
        return False

    @classmethod
    def refuse(cls, shape: Shape, options: Any, devices: int) -> str | None:
        """Why this model cannot be run so on that many devices, or None."""
        return None

    @classmethod
    def payload_bytes(cls, shape: Shape, options: Any, plan: Plan, rank: int) -> int:
        """Bytes of activations that `rank` sends between layers in one request, headers not counted."""
        return 0

    @classmethod
    def timed(cls, options: Any, on_the_way_s: float) -> dict[str, Any]:
        """Options that follow from how long it can take what is sent in a layer to arrive, where they are left open."""
        return {}

    @classmethod
    def deadline_s(cls, options: Any) -> float:
        """How long a device waits in a layer for what may never come; 0 where all comes."""
        return 0.0

    @classmethod
    def kept_bytes(cls, shape: Shape, options: Any, plan: Plan) -> int:
        """Bytes that the device of the last token keeps of other devices' tokens after a prompt, to go on alone.

        Unless a method says otherwise, keys and values in full precision.
        """
        return full_bytes(shape.layers, shape.kv_width, plan.tokens - len(plan.shares[-1].tokens))

    @classmethod
    def sample_tokens(cls, options: Any) -> int:
        """How many tokens of sample inputs `prepare` wants; 0 for a method that needs nothing beside the model."""
        return 0

    @classmethod
    def prepared_from(cls, options: Any) -> dict[str, Any]:
        """The options on which depends what `prepare` writes."""
        return {}

    @classmethod
    def prepare(cls, folder: Path, options: Any, samples: Sequence[Tensor], out: Path) -> None:
        """Write to `out` what the devices need beside the model, made from raw inputs of `sample_tokens` and more."""

    def forward(self, x: Tensor, exchange: Exchange) -> Tensor:
        """Embedded positions [S, D] held by this device -> its hidden states after the last layer it takes part in."""
        return self.through(x, self.context(exchange))

    def context(self, exchange: Exchange) -> Context:
        """What this device's tokens may attend to beyond themselves in one request: by default nothing."""
        return alone

    def through(self, x: Tensor, context: Context) -> Tensor:
        """Embedded positions [S, D] through all layers of this device, in that context."""
        for layer in self.model.layers:
            x = layer(x, self.start, context)
        return x

    @property
    def start(self) -> int:
        """Position of this device's first row; the class token, where there is one, is position 0."""
        return first_position(self.model.shape, self.share.tokens)


def first_position(shape: Shape, tokens: Span) -> int:
    """Position of the first row of the device that holds these content tokens, the class token before the first."""
    return tokens.start + shape.prefix if tokens.start else 0


def rows(shape: Shape, tokens: Span) -> int:
    """Positions that the holder of these content tokens holds: the class token goes with the first of them."""
    return len(tokens) + (shape.prefix if tokens.start == 0 else 0)


def positions(shape: Shape, plan: Plan) -> int:
    """Positions of a whole request, class token included."""
    return plan.tokens + shape.prefix


def indivisible_heads(shape: Shape, devices: int) -> str | None:
    """Why the heads of a model cannot be dealt out evenly, or None."""
    for name, count in (("heads", shape.heads), ("key/value heads", shape.kv_heads)):
        if count % devices:
            return f"{count} {name} cannot be divided among {devices} devices"
    return None

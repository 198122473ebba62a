"""The ways to run one Transformer over several devices. To add one: a file here, and its line in `METHODS`.

The table names the classes as text, so that a list of methods costs no import of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.methods.method import Method

METHODS: dict[str, str] = {
    "single": "runtime.methods.single:Single",
    "tensor": "runtime.methods.tensor:Tensor",
    "sequence": "runtime.methods.sequence:Sequence",
    "block": "runtime.methods.block:Block",
    "pipeline": "runtime.methods.pipeline:Pipeline",
    "astra": "runtime.methods.astra:Astra",
    "prism": "runtime.methods.prism:Prism",
    "topk": "runtime.methods.topk:TopK",
}


def load(name: str) -> type[Method]:
    """The class of a method. Raises KeyError for a name that is not in `METHODS`."""
    module, _, attribute = METHODS[name].partition(":")
    loaded: type[Method] = getattr(import_module(module), attribute)
    return loaded


def equals_single(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a method with these options promises the model's own output, to rounding: not behind a codec.

    Raises KeyError as `load`, and TypeError or ValueError for options that the method does not take.
    """
    from runtime.methods.coding import CodecOptions

    kind = load(name)
    made = kind.Options(**options)
    return kind.equals_single and not (isinstance(made, CodecOptions) and made.coded)

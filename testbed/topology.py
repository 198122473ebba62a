"""What a topology file says: hosts, switches, links and one run, as frozen values in bit/s, seconds and bytes.

`load` reads a file strictly, `dump` writes one that `load` reads back to an equal value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MIN_QUEUE_BYTES = 64 * 1024
MAX_HOSTS = 8


class TopologyError(Exception):
    """A topology file that cannot be used. `problems`: one full line each, `file:line key = value: what is allowed`."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        return TopologyError, (self.problems,)


@dataclass(frozen=True)
class Host:
    """A machine on the network. cpu: cores it may use, None for no limit; memory_bytes: likewise."""

    name: str
    cpu: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Switch:
    """Joins links. kind: "bridge" (Linux bridge) or "ovs" (Open vSwitch)."""

    name: str
    kind: Literal["bridge", "ovs"] = "bridge"


def default_queue_bytes(rate_bit_s: float, delay_s: float) -> int:
    """One bandwidth-delay product, at least 64 KiB: the queue of a link whose file does not say."""
    return max(MIN_QUEUE_BYTES, round(rate_bit_s * delay_s / 8))


@dataclass(frozen=True)
class Link:
    """A cable between two nodes, the same in both directions.

    delay_s and jitter_s are one way; loss is a fraction 0..1; queue_bytes is what waits before each direction's rate
    limit. queue_bytes left out or 0 becomes `default_queue_bytes`.
    """

    a: str
    b: str
    rate_bit_s: float
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    queue_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.queue_bytes:
            object.__setattr__(self, "queue_bytes", default_queue_bytes(self.rate_bit_s, self.delay_s))

    @property
    def worst_queue_s(self) -> float:
        """Seconds that the last byte of a full queue waits."""
        return self.queue_bytes * 8 / self.rate_bit_s

    def other(self, node: str) -> str:
        """The node at the far end from `node`."""
        return self.b if node == self.a else self.a


@dataclass(frozen=True)
class MethodSpec:
    """A method and the options that the file gives it; what it leaves out is the method's own default."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables call it: "sequence", "astra G=1", "block AG joins=1"; two specs that differ have two labels."""
        options = dict(self.options)
        words = [self.method]
        if self.method == "block":
            words.append(str(options.pop("exchange", "ag")).upper())
        short = {"groups": "G", "codewords": "K"} if self.method == "astra" else {}
        words += [f"{short.get(key, key)}={value}" for key, value in options.items()]
        return " ".join(words)


@dataclass(frozen=True)
class RunSpec:
    """What runs on the network: model, input, methods; budget_s is the time one method may take."""

    source: str
    model: str
    weights: Literal["random", "pretrained"] = "random"
    seed: int = 0
    tokens: int = 196
    inputs: str = "sample"
    methods: tuple[MethodSpec, ...] = (MethodSpec("single"),)
    repeats: int = 10
    budget_s: float = 60.0


@dataclass(frozen=True)
class Topology:
    """A network and the run on it."""

    name: str
    backend: Literal["mininet", "local"]
    hosts: tuple[Host, ...]
    switches: tuple[Switch, ...]
    links: tuple[Link, ...]
    run: RunSpec


def load(path: str | Path) -> Topology:
    """Read a topology file. Raises TopologyError with every problem of the file, each with its line and key."""
    from testbed import schema  # pydantic takes 0.2 s to import: only those who read a file pay

    return schema.read(Path(path))


def dump(topology: Topology) -> str:
    """YAML text, every quantity with its unit, that `load` reads back to an equal Topology."""
    from testbed.dump import write

    return write(topology)

"""What a topology file says: hosts, switches, links and one run, as frozen values in bit/s, seconds and bytes.

`load` reads a file strictly, `dump` writes one that `load` reads back to an equal value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from runtime.plan import Generation

MIN_QUEUE_BYTES = 64 * 1024
MAX_HOSTS = 16  # of a run
MOST_HOSTS = 1024  # of a file: what is beyond a run is predicted


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
    """Joins links. kind: "bridge" (Linux bridge), "ovs" (Open vSwitch), or "shared": a medium that all its links share.

    On a shared medium, as on a radio channel, one frame is in the air at a time, whichever link and direction it takes:
    rate_bit_s is common to all. A frame from one of its links to another takes its time once.
    """

    name: str
    kind: Literal["bridge", "ovs", "shared"] = "bridge"
    rate_bit_s: float | None = None  # of a shared medium only


@dataclass(frozen=True)
class Loss:
    """Packets lost, as fractions 0..1: independent, `Loss(good=0.01)`, or in bursts (Gilbert 1960, Elliott 1963).

    Two states; before each packet the state changes, good to bad with probability `enter`, bad to good with `leave`;
    the packet is then lost with probability `good` or `bad`. enter = 0: never bad. In `tc`'s gemodel, p is enter, r is
    leave, 1-k is good, 1-h is bad.
    """

    good: float = 0.0
    enter: float = 0.0
    leave: float = 1.0
    bad: float = 1.0

    @property
    def mean(self) -> float:
        """Fraction of packets lost in the long run."""
        in_bad = self.enter / (self.enter + self.leave) if self.enter else 0.0
        return in_bad * self.bad + (1 - in_bad) * self.good

    @property
    def bursty(self) -> bool:
        """Whether losses depend on each other."""
        return self.enter > 0


@dataclass(frozen=True)
class Step:
    """From at_s on, a lane has these values; None: what it had before the trace or event."""

    at_s: float
    rate_bit_s: float | None = None
    delay_s: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Trace:
    """How a lane changes, seconds from the start of each method's requests. period_s: it starts over after that;
    None: its last step stays."""

    steps: tuple[Step, ...]
    period_s: float | None = None


def default_queue_bytes(rate_bit_s: float, delay_s: float) -> int:
    """One bandwidth-delay product, at least 64 KiB: the queue of a lane whose file does not say."""
    return max(MIN_QUEUE_BYTES, round(rate_bit_s * delay_s / 8) if math.isfinite(rate_bit_s) else 0)


@dataclass(frozen=True)
class Lane:
    """One direction of a link.

    rate_bit_s: of the line; infinite for the way out of a shared medium. delay_s, jitter_s: one way, jitter uniform in
    delay_s +- jitter_s, order kept unless `reorder`. queue_bytes: what may wait for the rate, in bytes on the line; 0
    becomes `default_queue_bytes`. trace: how the lane changes while requests run; until they start it is as said here.
    """

    rate_bit_s: float
    delay_s: float = 0.0
    jitter_s: float = 0.0
    reorder: bool = False
    loss: Loss = Loss()
    queue_bytes: int = 0
    trace: Trace | None = None

    def __post_init__(self) -> None:
        if not self.queue_bytes:
            object.__setattr__(self, "queue_bytes", default_queue_bytes(self.rate_bit_s, self.delay_s))

    @property
    def worst_queue_s(self) -> float:
        """Seconds that the last byte of a full queue waits."""
        return self.queue_bytes * 8 / self.rate_bit_s


@dataclass(frozen=True)
class Link:
    """A cable between two nodes: `up` carries what a sends to b, `down` the other way."""

    a: str
    b: str
    up: Lane
    down: Lane

    @classmethod
    def both(cls, a: str, b: str, lane: Lane) -> Link:
        """A link that is the same in both directions."""
        return cls(a, b, lane, lane)

    def lane(self, sender: str) -> Lane:
        """The direction in which `sender` sends."""
        return self.up if sender == self.a else self.down

    def other(self, node: str) -> str:
        """The node at the far end from `node`."""
        return self.b if node == self.a else self.a


@dataclass(frozen=True)
class Event:
    """Something that happens at_s after the start of each method's requests.

    kind "down": link `ends` (both directions) carries nothing for for_s seconds; "set": `change` holds for the link
    `ends` in both directions, None for every link, for for_s seconds (None: from then on); "kill": the device on `host`
    is killed.
    """

    at_s: float
    kind: Literal["down", "set", "kill"]
    ends: tuple[str, str] | None = None
    host: str | None = None
    change: Step | None = None
    for_s: float | None = None


@dataclass(frozen=True)
class MethodSpec:
    """A method and the options that the file gives it; what it leaves out is the method's own default."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What tables call it: "sequence", "sequence+int8", "astra G=1"; two specs that differ have two labels."""
        options = dict(self.options)
        codec = options.pop("codec", None)
        words = [self.method if codec is None else f"{self.method}+{codec}"]
        if self.method == "block":
            words.append(str(options.pop("exchange", "ag")).upper())
        short = {"groups": "G", "codewords": "K"} if self.method == "astra" else {}
        words += [f"{short.get(key, key)}={value}" for key, value in options.items()]
        return " ".join(words)


@dataclass(frozen=True)
class RunSpec:
    """What runs on the network: model, input, methods; budget_s is the time one method may take.

    compute: the path of a profile whose times are waited for in place of computing; None: the model is computed.
    input_at: "source", which hands it out, or "everywhere": every device has the request's input beforehand.
    generate: what follows the tokens of the input, which is then a prompt; None: nothing does.
    """

    source: str
    model: str
    weights: Literal["random", "pretrained"] = "random"
    seed: int = 0
    tokens: int = 196
    inputs: str = "sample"
    methods: tuple[MethodSpec, ...] = (MethodSpec("single"),)
    repeats: int = 10
    budget_s: float = 60.0
    compute: str | None = None
    input_at: Literal["source", "everywhere"] = "source"
    generate: Generation | None = None


@dataclass(frozen=True)
class Topology:
    """A network and the run on it."""

    name: str
    backend: Literal["mininet", "local"]
    hosts: tuple[Host, ...]
    switches: tuple[Switch, ...]
    links: tuple[Link, ...]
    run: RunSpec
    events: tuple[Event, ...] = ()


def load(path: str | Path) -> Topology:
    """Read a topology file. Raises TopologyError with every problem of the file, each with its line and key."""
    from testbed import schema  # pydantic takes 0.2 s to import: only those who read a file pay

    return schema.read(Path(path))


def dump(topology: Topology) -> str:
    """YAML text, every quantity with its unit, that `load` reads back to an equal Topology."""
    from testbed.dump import write

    return write(topology)

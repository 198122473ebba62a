"""The sections of a topology file: what each key may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo

from runtime.plan import Generation
from testbed import traces, units
from testbed.door import Door, Duration, Fraction, Located, Rate, Size, through
from testbed.envelope import FRAME_BYTES, LONGEST_DELAY_S
from testbed.topology import Loss, Trace
from testbed.yamlfile import Document

MIN_QUEUE_BYTES = 10 * FRAME_BYTES  # what TCP sends before it hears anything
MAX_QUEUE_BYTES = 2**32 - 1  # the kernel counts a queue in 32 bits
COLDEST = 0.01  # temperature: nothing but the likeliest is drawn; far below, logits divided by it are no numbers
QUEUE_ALLOWED = f"must hold the frames that TCP starts with, {units.show_size(MIN_QUEUE_BYTES)}, and be below 4 GiB"


class HostDoor(Door):
    """hosts.NAME and defaults.host."""

    cpu: float | None = Field(default=None, ge=0.001, le=4096, description="cores, e.g. 0.4")
    memory: Size | None = Field(default=None, gt=0, description='e.g. "2 GiB"')


class BurstDoor(Door):
    """loss in bursts, by its mean and how many packets in a row are lost, on average."""

    mean: Fraction
    burst: float = Field(ge=1, le=1e6, description="packets lost in a row, on average, e.g. 4")

    def loss(self) -> Loss:
        """The two states that give these figures when every packet is lost in the bad one. Raises ValueError."""
        if self.mean == 0:
            return Loss()
        if self.mean > self.burst / (self.burst + 1):
            raise ValueError(
                f"bursts of {self.burst:g} with one packet between them lose {self.burst / (self.burst + 1):.2%}: "
                "give a lower mean or longer bursts"
            )
        leave = 1 / self.burst
        return Loss(enter=min(1.0, leave * self.mean / (1 - self.mean)), leave=leave)


class GilbertDoor(Door):
    """loss in bursts, by the probabilities of a Gilbert-Elliott channel."""

    enter: Fraction
    leave: Fraction
    bad: Fraction = 1.0
    good: Fraction = 0.0

    def loss(self) -> Loss:
        """The same, frozen."""
        return Loss(self.good, self.enter, self.leave, self.bad)


def _delay(value: object) -> float:
    delay_s = units.parse_duration(value)
    if delay_s > LONGEST_DELAY_S:
        raise ValueError(f"a link delays by 0 to {units.show_duration(LONGEST_DELAY_S)} one way")
    return delay_s


def _loss(value: Any) -> Loss:
    if isinstance(value, dict):
        in_full = any(key in GilbertDoor.model_fields for key in value)
        loss = (through(GilbertDoor, value) if in_full else through(BurstDoor, value)).loss()
    elif isinstance(value, list):
        raise ValueError('give a fraction, e.g. "1 %", or bursts, e.g. {mean: 1 %, burst: 4}')
    else:
        loss = Loss(good=units.parse_fraction(value))
    if loss.mean >= 1:
        raise ValueError("must be below 100 %: in the long run nothing would arrive")
    return loss


def _queue(value: object) -> int | units.Waiting:
    queue = units.parse_queue(value)
    if isinstance(queue, int) and not MIN_QUEUE_BYTES <= queue <= MAX_QUEUE_BYTES:
        raise ValueError(f'{QUEUE_ALLOWED}, e.g. "64 KiB"; or a time, e.g. "50 ms"')
    return queue


def _trace(value: Any, info: ValidationInfo) -> Trace:
    """Read once, however many links have it: known by the name of its file, or by the one object that stands for it."""
    document, key = cast(Document, info.context), value if isinstance(value, str) else id(value)
    if key not in document.traces:
        document.traces[key] = value, traces.read(value, Path(document.name).parent)
    return document.traces[key][1]


class LaneDoor(Door):
    """One direction of a link."""

    rate: Rate | None = None
    delay: Annotated[float, BeforeValidator(_delay)] | None = None
    jitter: Duration | None = None
    reorder: bool | None = None
    loss: Annotated[Loss, PlainValidator(_loss)] | None = None
    queue: Annotated[int | units.Waiting, PlainValidator(_queue)] | None = None
    trace: Annotated[Trace, PlainValidator(_trace)] | None = None

    def values(self) -> dict[str, Any]:
        """What it says, key by key; what it leaves out is left out."""
        found = {key: getattr(self, key) for key in LaneDoor.model_fields}
        return {key: value for key, value in found.items() if value is not None}


def _lane(value: Any, info: ValidationInfo) -> LaneDoor:
    return through(LaneDoor, value, info.context)


class LinkDoor(LaneDoor):
    """defaults.link: what holds in both directions, and what only in one. up: from the first node to the second."""

    up: Annotated[LaneDoor, PlainValidator(_lane)] | None = None
    down: Annotated[LaneDoor, PlainValidator(_lane)] | None = None


def pair(text: str) -> tuple[str, str]:
    """ "h1 - s1" -> ("h1", "s1"). Raises ValueError."""
    words = text.split()
    if len(words) != 3 or words[1] != "-":
        raise ValueError('give two names with " - " between them, e.g. "h1 - s1"')
    return words[0], words[2]


def _between(text: str) -> str:
    pair(text)
    return text


class CableDoor(LinkDoor):
    """links[i]."""

    between: Annotated[str, AfterValidator(_between)]


class SwitchDoor(Door):
    """switches.NAME."""

    type: Literal["bridge", "ovs", "shared"] = "bridge"
    rate: Rate | None = None  # of a shared medium


class ReplayDoor(Door):
    """run.compute where a profile's times take the place of computing."""

    replay: str = Field(min_length=1, description="the file of a profile, beside this file or by its whole path")


def _compute(value: Any, info: ValidationInfo) -> str | None:
    """The absolute path of a profile, or None."""
    if value == "real":
        return None
    if not isinstance(value, dict):
        raise ValueError("choose real, or {replay: PROFILE}")
    replay = through(ReplayDoor, value).replay
    return os.path.abspath(os.path.join(Path(cast(Document, info.context).name).parent, os.path.expanduser(replay)))


class SamplingDoor(Door):
    """run.generate.sampling where it is not greedy."""

    temperature: float = Field(default=1.0, ge=COLDEST, le=100, description="e.g. 0.8; the coldest is sampling: greedy")
    top_k: int | None = Field(default=None, ge=1, description="draw from so many of the likeliest, e.g. 40")


def _sampling(value: Any) -> SamplingDoor | None:
    if value == "greedy":
        return None
    if not isinstance(value, dict):
        raise ValueError("choose greedy, or {temperature: 0.8, top_k: 40}, each of which may be left out")
    return through(SamplingDoor, value)


def _drawn_from(seed: int | None, info: ValidationInfo) -> int | None:
    if seed is not None and "sampling" in info.data and info.data["sampling"] is None:
        raise ValueError("greedy sampling draws nothing: leave it out, or give sampling: {temperature: 0.8}")
    return seed


class GenerateDoor(Door):
    """run.generate. seed: only where something is drawn."""

    tokens: int = Field(ge=1, le=10**6, description="how many follow the prompt, e.g. 32")
    sampling: Annotated[SamplingDoor | None, PlainValidator(_sampling)] = None
    seed: Annotated[int | None, AfterValidator(_drawn_from)] = Field(
        default=None, ge=0, lt=2**63, description="default: run.seed"
    )


def _generate(value: Any) -> GenerateDoor | None:
    if value is None:
        return None
    if not isinstance(value, dict) and type(value) is not int:
        raise ValueError("give how many tokens follow the prompt, e.g. 32, or {tokens: 32, sampling: greedy}")
    return through(GenerateDoor, value if isinstance(value, dict) else {"tokens": value})


class RunDoor(Door):
    """run."""

    source: str | None = None
    model: Located = Field(min_length=1, description="a model, e.g. vit-base, or a folder or hub id of a checkpoint")
    weights: Literal["random", "pretrained"] = "random"
    seed: int = Field(default=0, ge=0, lt=2**63)
    tokens: int = Field(ge=1, le=10**7, description="how many the input has, e.g. 196")
    inputs: Located = Field(default="sample", min_length=1, description="sample, a folder of images or a text file")
    methods: list[Any] = Field(default_factory=lambda: ["single"], min_length=1, description="e.g. [single, sequence]")
    repeats: int = Field(default=10, ge=1, le=10**6)
    budget: Duration = Field(default=60.0, gt=0, description='e.g. "60 s"')
    compute: Annotated[str | None, PlainValidator(_compute)] = None
    input_at: Literal["source", "everywhere"] = "source"
    generate: Annotated[GenerateDoor | None, PlainValidator(_generate)] = None

    @property
    def generation(self) -> Generation | None:
        """What follows the prompt."""
        if (found := self.generate) is None:
            return None
        if found.sampling is None:
            return Generation(found.tokens)
        return Generation(
            found.tokens, **found.sampling.model_dump(), seed=self.seed if found.seed is None else found.seed
        )


class HeadDoor(Door):
    """The top of the file, its sections left out."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="it names a folder: letters, digits, _ . and -"
    )
    backend: Literal["mininet", "local"] = Field(description="mininet or local")

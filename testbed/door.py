"""The shapes of a topology file's sections, checked by pydantic, and its complaints in our words."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
)  # fmt: skip
from pydantic_core import ErrorDetails

from runtime.families import PRESETS
from testbed import traces, units
from testbed.envelope import FRAME_BYTES, HIGHEST_RATE_BIT_S, LONGEST_DELAY_S, LOWEST_RATE_BIT_S
from testbed.topology import Loss, Trace
from testbed.wiring import nearest
from testbed.yamlfile import Document, Place


def settled(text: str) -> str:
    """What exists at a path, by its absolute path, so that a saved file means the same from anywhere; else the text.

    ~ is the home of whoever called sudo, or else one's own.
    """
    if text in PRESETS or text in ("", "sample"):  # these are names, also where a folder is called so
        return text
    found = next((path for path in _readings(text) if os.path.exists(path)), None)
    return text if found is None else os.path.abspath(found)


def _readings(text: str) -> list[str]:
    readings = [os.path.expanduser(text)]
    if os.geteuid() == 0 and (text == "~" or text.startswith("~/")):
        callers = [user.pw_dir for user in pwd.getpwall() if user.pw_name == os.environ.get("SUDO_USER")]
        readings = [*(home + text[1:] for home in callers), *readings]
    return readings


Located = Annotated[str, AfterValidator(settled)]


def _rate(value: object) -> float:
    rate_bit_s = units.parse_rate(value)
    if not LOWEST_RATE_BIT_S <= rate_bit_s <= HIGHEST_RATE_BIT_S:
        allowed = f"{units.show_rate(LOWEST_RATE_BIT_S)} to {units.show_rate(HIGHEST_RATE_BIT_S)}"
        raise ValueError(f"links are true to rates of {allowed}")
    return rate_bit_s


Rate = Annotated[float, BeforeValidator(_rate)]
Duration = Annotated[float, BeforeValidator(units.parse_duration)]
Fraction = Annotated[float, BeforeValidator(units.parse_fraction)]
Size = Annotated[int, BeforeValidator(units.parse_size)]
MIN_QUEUE_BYTES = 10 * FRAME_BYTES  # what TCP sends before it hears anything
MAX_QUEUE_BYTES = 2**32 - 1  # the kernel counts a queue in 32 bits
QUEUE_ALLOWED = f"must hold the frames that TCP starts with, {units.show_size(MIN_QUEUE_BYTES)}, and be below 4 GiB"


class Door(BaseModel):
    """No key that it does not know, no text where a number belongs, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


D = TypeVar("D", bound=Door)


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


class Inside(ValueError):
    """What is wrong inside a value that has a door of its own."""

    def __init__(self, door: type[Door], error: ValidationError) -> None:
        self.door = door
        self.details = error.errors(include_url=False)
        super().__init__(str(error))


def _through(door: type[D], value: Any, context: Any = None) -> D:
    try:
        return door.model_validate(value, context=context)
    except ValidationError as error:
        raise Inside(door, error) from None


def _delay(value: object) -> float:
    delay_s = units.parse_duration(value)
    if delay_s > LONGEST_DELAY_S:
        raise ValueError(f"a link delays by 0 to {units.show_duration(LONGEST_DELAY_S)} one way")
    return delay_s


def _loss(value: Any) -> Loss:
    if isinstance(value, dict):
        in_full = any(key in GilbertDoor.model_fields for key in value)
        loss = (_through(GilbertDoor, value) if in_full else _through(BurstDoor, value)).loss()
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
    return _through(LaneDoor, value, info.context)


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
    replay = _through(ReplayDoor, value).replay
    return os.path.abspath(os.path.join(Path(cast(Document, info.context).name).parent, os.path.expanduser(replay)))


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


class HeadDoor(Door):
    """The top of the file, its sections left out."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="it names a folder: letters, digits, _ . and -"
    )
    backend: Literal["mininet", "local"] = Field(description="mininet or local")


_SAID = {
    "missing": "is missing",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be below {lt:g}",
    "literal_error": "choose {expected}",
    "value_error": "{error}",
    "int_type": "give a whole number",
    "float_type": "give a number without a unit",
    "bool_type": "give true or false",
    "string_type": "give text, in quotes if it looks like a number",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_pattern_mismatch": "is not allowed",
    "list_type": "give a list [...]",
    "model_type": "give a mapping {{key: value}}",
    "dict_type": "give a mapping {{key: value}}",
}


def enter(door: type[D], value: Any, place: Place, document: Document) -> D | None:
    """`value` through `door`; or its problems noted in `document`, and None."""
    try:
        return door.model_validate({} if value is None else value, context=document)
    except ValidationError as error:
        details = error.errors(include_url=False)
        for detail in details:
            _note(door, detail, place, document)
    strangers = {detail["loc"][0] for detail in details if detail["type"] == "extra_forbidden"}
    if len(strangers) < len(details):
        return None
    # Of a key that does not exist nothing else depends: what is wrong with the others is found in the same pass.
    return door.model_validate({key: one for key, one in value.items() if key not in strangers}, context=document)


def unknown(key: str, allowed: list[str]) -> str:
    """What to say of a key that does not exist."""
    return f"unknown key, {nearest(key, allowed)}allowed: {', '.join(allowed)}"


def _note(door: type[Door], detail: ErrorDetails, place: Place, document: Document) -> None:
    inside = detail["loc"]
    kind = detail["type"]
    where = (*place, *inside)
    error = detail.get("ctx", {}).get("error")
    if isinstance(error, Inside):
        for inner in error.details:
            _note(error.door, inner, where, document)
        return
    if kind == "extra_forbidden":
        document.unknown |= {where, document.source(where)}
        document.problem(where, unknown(str(inside[-1]), list(door.model_fields)))
        return
    said = _SAID.get(kind, detail["msg"]).format(**detail.get("ctx", {}))
    about = door.model_fields[str(inside[0])].description if inside else None
    text = f"{said} ({about})" if about and kind not in ("value_error", "literal_error") else said
    if kind == "missing":
        document.problem(where, text)
    else:
        document.problem(where, text, document.at(where, detail["input"]))

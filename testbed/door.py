"""The shapes of a topology file's sections, checked by pydantic, and its complaints in our words."""

from __future__ import annotations

import os
import pwd
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from runtime.families import PRESETS
from testbed import units
from testbed.shape import FRAME_BYTES
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
Rate = Annotated[float, BeforeValidator(units.parse_rate)]
Duration = Annotated[float, BeforeValidator(units.parse_duration)]
Fraction = Annotated[float, BeforeValidator(units.parse_fraction)]
Size = Annotated[int, BeforeValidator(units.parse_size)]
MIN_QUEUE_BYTES = 2 * FRAME_BYTES  # one frame on its way and one that waits; with less nothing passes


class Door(BaseModel):
    """No key that it does not know, no text where a number belongs, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class HostDoor(Door):
    """hosts.NAME and defaults.host."""

    cpu: float | None = Field(default=None, ge=0.001, le=4096, description="cores, e.g. 0.4")
    memory: Size | None = Field(default=None, gt=0, description='e.g. "2 GiB"')


class LinkDoor(Door):
    """defaults.link."""

    rate: Rate | None = None
    delay: Duration | None = None
    jitter: Duration | None = None
    loss: Fraction | None = None
    queue: Size | None = Field(default=None, ge=MIN_QUEUE_BYTES, description='bytes, two frames or more, e.g. "64 KiB"')


class CableDoor(LinkDoor):
    """links[i]."""

    between: str = Field(
        pattern=r"^\s*[^\s]+\s+-\s+[^\s]+\s*$", description='two names with " - " between them, e.g. "h1 - s1"'
    )


class SwitchDoor(Door):
    """switches.NAME."""

    type: Literal["bridge", "ovs"] = "bridge"


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


class HeadDoor(Door):
    """The top of the file, its sections left out."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="it names a folder: letters, digits, _ . and -"
    )
    backend: Literal["mininet", "local"] = Field(description="mininet or local")


D = TypeVar("D", bound=Door)
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
        return door.model_validate({} if value is None else value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            _note(door, detail, place, document)
        return None


def unknown(key: str, allowed: list[str]) -> str:
    """What to say of a key that does not exist."""
    return f"unknown key, {nearest(key, allowed)}allowed: {', '.join(allowed)}"


def _note(door: type[Door], detail: ErrorDetails, place: Place, document: Document) -> None:
    inside = detail["loc"]
    kind = detail["type"]
    where = (*place, *inside)
    if kind == "extra_forbidden":
        document.problem(where, unknown(str(inside[-1]), list(door.model_fields)))
        return
    said = _SAID.get(kind, detail["msg"]).format(**detail.get("ctx", {}))
    about = door.model_fields[str(inside[0])].description if inside else None
    text = f"{said} ({about})" if about and kind not in ("value_error", "literal_error") else said
    if kind == "missing":
        document.problem(where, text)
    else:
        document.problem(where, text, document.at(where, detail["input"]))

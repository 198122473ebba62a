"""What stands in a file goes through pydantic; its complaints come out in our words."""

from __future__ import annotations

import os
import pwd
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
)  # fmt: skip
from pydantic_core import ErrorDetails

from runtime.families import PRESETS
from testbed import units
from testbed.envelope import HIGHEST_RATE_BIT_S, LOWEST_RATE_BIT_S
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


class Door(BaseModel):
    """No key that it does not know, no text where a number belongs, no infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


D = TypeVar("D", bound=Door)


class Inside(ValueError):
    """What is wrong inside a value that has a door of its own."""

    def __init__(self, door: type[Door], error: ValidationError) -> None:
        self.door = door
        self.details = error.errors(include_url=False)
        super().__init__(str(error))


def through(door: type[D], value: Any, context: Any = None) -> D:
    """A value that has a door of its own, inside another. Raises Inside."""
    try:
        return door.model_validate(value, context=context)
    except ValidationError as error:
        raise Inside(door, error) from None


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

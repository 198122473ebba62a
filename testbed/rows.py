"""What a row of records.jsonl or timeline.jsonl has to be, so that who reads it need not look again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from runtime.record import Record

Check = Callable[[Any], bool]
BEYOND = 2.0**63  # no count and no time of ours; a float that is not finite is never below
SCORES = ("this", "single")
FIDELITY = ("max_abs_error", "cosine", "top1_agreement", "kl", "token_agreement", "token_lead")
LATER: dict[str, Any] = {  # fields that rows of older folders lack
    "late_s": None, "lost_tokens": 0, "due_tokens": 0, "dropped": None, "generated": None, "ttft_s": None,
    "token_s": None, "token_bytes": 0, "kept_bytes": None,
}  # fmt: skip
ABSENT: dict[str, Any] = {**LATER, "error": None, "fidelity": None, "score": None}  # those that a row need not have


def is_number(value: Any) -> bool:
    """A finite number; "NaN" and "Infinity", which Python reads from JSON, are none, and neither is true."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < BEYOND


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def or_none(check: Check) -> Check:
    """What may be null, too."""
    return lambda value: value is None or check(value)


def _whole(value: Any) -> bool:
    """A count, or the number of something."""
    return type(value) is int and 0 <= value < BEYOND


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _two(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def _counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_whole, value.values()))


def _fidelity(value: Any) -> bool:
    known = or_none(lambda one: _flag(one) or is_number(one))
    return isinstance(value, dict) and all(known(value.get(key)) for key in FIDELITY)


def _score(value: Any) -> bool:
    known = or_none(is_number)
    if not isinstance(value, dict) or not or_none(is_text)(value.get("input")):
        return False
    return is_text(value.get("metric")) and all(known(value.get(key)) for key in SCORES)


def _wholes(value: Any) -> bool:
    return isinstance(value, list) and all(map(_whole, value))


def _span(value: Any) -> bool:
    """[kind, stage, layer, start, seconds]."""
    checks = (is_text, is_text, or_none(_whole), is_number, is_number)
    return isinstance(value, list) and len(value) == 5 and all(one(v) for one, v in zip(checks, value, strict=True))


def _spans(value: Any) -> bool:
    return isinstance(value, list) and all(map(_span, value))


# By the types of a record's fields, so that one which is added to it is checked, too.
_KINDS: Mapping[str, Check] = {
    "int": _whole,
    "float": is_number,
    "int | None": or_none(_whole),
    "float | None": or_none(is_number),
    "str | None": or_none(is_text),
    "list[int] | None": or_none(_wholes),
    "tuple[float, float] | None": or_none(_two),
    "dict[str, int] | None": or_none(_counts),
}
_COMMON: Mapping[str, Check] = {"host": is_text, "label": is_text, "warmup": _flag}
RECORD: Mapping[str, Check] = {
    **{field.name: _KINDS[str(field.type)] for field in fields(Record)},
    **_COMMON,
    "method": is_text,
    "fidelity": or_none(_fidelity),
    "score": or_none(_score),
}
TIMELINE: Mapping[str, Check] = {**_COMMON, "request": _whole, "rank": _whole, "began_s": is_number, "spans": _spans}


def wrong(row: Mapping[str, Any], checks: Mapping[str, Check]) -> list[str]:
    """The keys that a row lacks, or has with something else than what belongs there."""
    whole = {**ABSENT, **row}
    return [key for key, check in checks.items() if key not in whole or not check(whole[key])]

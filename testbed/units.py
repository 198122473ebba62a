"""Quantities as people write them, "10 Mbit/s" or "64 KiB", to bit/s, seconds, fractions and bytes, and back.

Strict on purpose: to `tc`, "mbit" is megabits and "mbps" mega*bytes*; here a rate is in bit/s or it is refused, and a
number without a unit is refused everywhere. Upper and lower case count: m is milli, M is mega.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
RATES: Mapping[str, Fraction] = {f"{p}bit/s": Fraction(n) for p, n in (_DECIMAL | _BINARY).items()}
SIZES: Mapping[str, Fraction] = {f"{p}B": Fraction(n) for p, n in (_DECIMAL | _BINARY).items()}
DURATIONS: Mapping[str, Fraction] = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "ms": Fraction(1, 10**3),
    "s": Fraction(1),
    "min": Fraction(60),
    "h": Fraction(3600),
}
FRACTIONS: Mapping[str, Fraction] = {"%": Fraction(1, 100)}

# Three digits are more than any quantity needs, and a bound: Fraction("1e999999999") would fill the memory.
_QUANTITY = re.compile(r"\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(?P<unit>\S*)\s*", re.ASCII)


def _parse(value: object, what: str, units: Mapping[str, Fraction], example: str) -> Fraction:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f'give a unit, e.g. "{example}"')
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'give a {what}: a number and a unit, e.g. "{example}"')
    if not match["unit"]:
        raise ValueError(f'give a unit, e.g. "{example}"')
    if match["unit"] not in units:
        raise ValueError(f'"{match["unit"]}" is no unit of a {what}; use {", ".join(units)}, e.g. "{example}"')
    return Fraction(match["number"]) * units[match["unit"]]


def _number(exact: Fraction, what: str) -> float:
    try:
        return float(exact)
    except OverflowError:
        raise ValueError(f"no {what} is that large") from None


def parse_rate(value: object) -> float:
    """ "10 Mbit/s" -> 1e7 bit/s. Raises ValueError, with what is allowed, for anything but a rate above 0."""
    rate = _number(_parse(value, "rate", RATES, "10 Mbit/s"), "rate")
    if rate <= 0:
        raise ValueError('a rate must be above 0, e.g. "10 Mbit/s"')
    return rate


def parse_duration(value: object) -> float:
    """ "5 ms" -> 0.005 seconds. Raises ValueError for anything but a duration of 0 or more."""
    duration = _number(_parse(value, "duration", DURATIONS, "5 ms"), "duration")
    if duration < 0:
        raise ValueError('a duration must not be negative, e.g. "5 ms"')
    return duration


def parse_fraction(value: object) -> float:
    """ "1 %" -> 0.01. Raises ValueError for anything but 0 % to 100 %."""
    exact = _parse(value, "fraction", FRACTIONS, "1 %")
    if not 0 <= exact <= 1:
        raise ValueError('must be from 0 % to 100 %, e.g. "1 %"')
    return float(exact)


def parse_size(value: object) -> int:
    """ "64 KiB" -> 65536 bytes. Raises ValueError for anything but a whole number of bytes, 0 or more."""
    exact = _parse(value, "size", SIZES, "64 KiB")
    if exact < 0 or exact.denominator != 1:
        raise ValueError('must be a whole number of bytes, 0 or more, e.g. "64 KiB"')
    return int(exact)


@dataclass(frozen=True)
class Waiting:
    """A queue by the time that its last byte waits, not by its bytes."""

    seconds: float


def parse_queue(value: object) -> int | Waiting:
    """ "64 KiB" -> 65536 bytes, "50 ms" -> Waiting(0.05). Raises ValueError for anything but a size or a duration."""
    _parse(value, "queue", {**SIZES, **DURATIONS}, "64 KiB")
    match = _QUANTITY.fullmatch(str(value))
    return Waiting(parse_duration(value)) if match and match["unit"] in DURATIONS else parse_size(value)


def _show(value: float, units: Mapping[str, Fraction], names: tuple[str, ...], exact: bool) -> str:
    """`value` in the largest of the decimal units `names` (largest first) that keeps the number at 1 or more."""
    unit = next((name for name in names if abs(value) >= units[name]), names[-1])
    if not exact:
        return f"{float(value / units[unit]):.4g} {unit}"
    # repr is the shortest decimal that reads back as this float, and a decimal unit only moves its point.
    scale = Decimal(units[unit].numerator) / units[unit].denominator
    number = (Decimal(repr(float(value))) / scale).normalize()
    return f"{number:f} {unit}" if abs(number.adjusted()) < 18 else f"{number} {unit}"


def show_rate(rate_bit_s: float, exact: bool = False) -> str:
    """1e7 -> "10 Mbit/s", to four digits, or with `exact` so that parse_rate gives the same float back."""
    return _show(rate_bit_s, RATES, ("Gbit/s", "Mbit/s", "kbit/s", "bit/s"), exact)


def show_duration(seconds: float, exact: bool = False) -> str:
    """0.005 -> "5 ms", to four digits, or with `exact` so that parse_duration gives the same float back."""
    return _show(seconds, DURATIONS, ("s", "ms", "us", "ns"), exact) if seconds else "0 ms"


def show_fraction(fraction: float, exact: bool = False) -> str:
    """0.01 -> "1 %", to four digits, or with `exact` so that parse_fraction gives the same float back."""
    return _show(fraction, FRACTIONS, ("%",), exact) if fraction else "0 %"


def show_size(size_bytes: int) -> str:
    """65536 -> "64 KiB"; always exact: the largest binary or decimal unit that divides it, else bytes."""
    for name in ("TiB", "TB", "GiB", "GB", "MiB", "MB", "KiB", "kB"):
        if size_bytes and size_bytes % SIZES[name] == 0:
            return f"{size_bytes // SIZES[name]} {name}"
    return f"{size_bytes} B"

"""What happens to the network while requests run, one line each, to frozen Events and back. Times count from the start
of each method's requests; so every method meets the same.

    at 30 s: h2 - s1 down for 5 s                               both directions carry nothing
    at 60 s: loss 5 %                                           every link, from then on
    at 60 s: h2 - s1 rate 2 Mbit/s delay 20 ms for 10 s         one link, then as before
    at 90 s: kill h3                                            the device process on h3
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from testbed.topology import Event, Step
from testbed.traces import LEAST_STEP_S, beyond
from testbed.units import (
    parse_duration,
    parse_fraction,
    parse_rate,
    show_duration,
    show_fraction,
    show_rate,
)
from testbed.wiring import nearest

FORMS = (
    "at 30 s: h2 - s1 down for 5 s",
    "at 60 s: loss 5 %",
    "at 60 s: h2 - s1 rate 2 Mbit/s delay 20 ms for 10 s",
    "at 90 s: kill h3",
)
_ALLOWED = f"allowed: {'; '.join(FORMS)}"
_LINE = re.compile(r"\s*at\s+([^:]*?)\s*:\s+(\S.*?)\s*", re.ASCII)
_NUMBER = re.compile(r"[+-]?[\d.]+(?:[eE][+-]?\d+)?", re.ASCII)
_QUANTITIES: Mapping[str, tuple[str, Callable[[object], float]]] = {
    "rate": ("rate_bit_s", parse_rate),
    "delay": ("delay_s", parse_duration),
    "loss": ("loss", parse_fraction),
}
_VERBS = ("down", "kill", *_QUANTITIES)


def parse(text: str) -> Event:
    """The event that a line means. Whether its host and link exist is not looked at.

    Raises ValueError: one line with what is allowed.
    """
    match = _LINE.fullmatch(text)
    if match is None:
        raise ValueError(f'give "at TIME: WHAT"; {_ALLOWED}')
    at_s = _said("at", parse_duration, match[1])
    words = match[2].split()
    if words[0] == "kill" and words[1:2] != ["-"]:
        if len(words) != 2:
            raise ValueError(f"kill takes one host; {_ALLOWED}")
        return Event(at_s, "kill", host=words[1])
    ends = None
    if words[1:2] == ["-"]:
        if len(words) < 4:
            raise ValueError(f"say what happens to {' '.join(words)}: down, rate, delay or loss; {_ALLOWED}")
        ends, words = (words[0], words[2]), words[3:]
    if words[0] == "down":
        return _down(at_s, ends, words[1:])
    return _set(at_s, ends, words)


def show(event: Event) -> str:
    """A line that `parse` turns back into an equal Event."""
    words = [f"at {show_duration(event.at_s, exact=True)}:"]
    if event.ends is not None:
        words.append(" - ".join(event.ends))
    if event.kind == "kill":
        words.append(f"kill {event.host}")
    elif event.kind == "down":
        words.append("down")
    elif event.change is not None:
        words += _values(event.change)
    if event.for_s is not None:
        words.append(f"for {show_duration(event.for_s, exact=True)}")
    return " ".join(words)


def _values(change: Step) -> list[str]:
    shows = (("rate", change.rate_bit_s, show_rate), ("delay", change.delay_s, show_duration))
    words = [f"{name} {show(value, exact=True)}" for name, value, show in shows if value is not None]
    return words if change.loss is None else [*words, f"loss {show_fraction(change.loss, exact=True)}"]


def _said(key: str, parse: Callable[[object], float], text: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{key} {text}: {error}" if text else f"{key}: {error}") from None


def _for(words: Sequence[str]) -> float:
    for_s = _said("for", parse_duration, " ".join(words))
    if for_s < LEAST_STEP_S:
        raise ValueError(f"for {' '.join(words)}: give {show_duration(LEAST_STEP_S)} or more")
    return for_s


def _down(at_s: float, ends: tuple[str, str] | None, words: Sequence[str]) -> Event:
    if ends is None:
        raise ValueError(f"say which link is down; {_ALLOWED}")
    if words[:1] != ["for"]:
        raise ValueError(f"say how long the link is down; {_ALLOWED}")
    return Event(at_s, "down", ends, for_s=_for(words[1:]))


def _set(at_s: float, ends: tuple[str, str] | None, words: Sequence[str]) -> Event:
    """Quantities, each a word and its value, then perhaps `for` and how long."""
    values: dict[str, float] = {}
    for_s = None
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "for" and values:
            for_s = _for(rest)
            break
        if word not in _QUANTITIES:
            known = (*_QUANTITIES, "for") if values else _VERBS
            raise ValueError(f'"{word}" is unknown, {nearest(word, known)}{_ALLOWED}')
        field, parse = _QUANTITIES[word]
        if field in values:
            raise ValueError(f"{word} is there twice; {_ALLOWED}")
        values[field] = _said(word, parse, _taken(rest))
    change = Step(at_s, **values)
    why = beyond(change)
    if why is not None:
        raise ValueError(why)
    return Event(at_s, "set", ends, change=change, for_s=for_s)


def _taken(rest: list[str]) -> str:
    """Take one quantity from the front: "5ms", or "5" and the word after it."""
    text = rest.pop(0) if rest else ""
    if rest and _NUMBER.fullmatch(text) and rest[0] not in (*_QUANTITIES, "for"):
        text = f"{text} {rest.pop(0)}"
    return text

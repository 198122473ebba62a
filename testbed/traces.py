"""What stands under `trace:` of a lane, to a frozen Trace, and back.

A file (`wifi.csv`, or with how to read it {file: cell.log, format: mahimahi}; see `testbed/tracefiles.py`),
{steps: [[0 s, 10 Mbit/s], [5 s, null, 20 ms, 1 %]], repeat: 10 s}, {constant: 10 Mbit/s},
{onoff: {rate: 10 Mbit/s, low: 1 Mbit/s, on: 5 s, off: 2 s}}, {markov: {...}} (see `testbed/walk.py`).

Each step stands for itself: a quantity that it leaves out is what the lane declares. Before the time of its first step
the lane is as declared, also each time that the trace starts over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from testbed import tracefiles
from testbed.envelope import HIGHEST_RATE_BIT_S, LONGEST_DELAY_S, LOWEST_RATE_BIT_S
from testbed.topology import Step, Trace
from testbed.tracefiles import MOST_STEPS, Labelled
from testbed.units import (
    parse_duration,
    parse_fraction,
    parse_rate,
    show_duration,
    show_fraction,
    show_rate,
)
from testbed.walk import Walk
from testbed.wiring import nearest

LEAST_STEP_S = 1e-3  # a change takes about as long to apply
_STEP = "[time, rate, delay, loss], e.g. [5 s, 2 Mbit/s, 20 ms, 1 %], null for what stays"
Entry = Mapping[str, Any]


def read(value: Any, folder: Path) -> Trace:
    """The trace that `value`, plain data from YAML, means; a file's name is relative to `folder`.

    Raises ValueError: one line with what is allowed, for a file with its name and line.
    """
    entry = {"file": value} if isinstance(value, str) else value
    forms = [form for form in FORMS if isinstance(entry, dict) and form in entry]
    if len(forms) != 1:
        stranger = "".join(nearest(str(key), FORMS) for key in list(entry)[:1]) if isinstance(entry, dict) else ""
        raise ValueError(f"{stranger}give a file's name, e.g. wifi.csv, or a mapping with one of {', '.join(FORMS)}")
    reader, others = FORMS[forms[0]]
    _know(entry, (forms[0], *others))
    return reader(entry, folder)


def write(trace: Trace) -> dict[str, Any]:
    """The same with every step written out, as plain data that `read` turns back into an equal Trace."""
    entry: dict[str, Any] = {"steps": [_row(step) for step in trace.steps]}
    if trace.period_s is not None:
        entry["repeat"] = show_duration(trace.period_s, exact=True)
    return entry


def beyond(step: Step) -> str | None:
    """Why no lane can take these values, or None."""
    if step.rate_bit_s is not None and not LOWEST_RATE_BIT_S <= step.rate_bit_s <= HIGHEST_RATE_BIT_S:
        allowed = f"{show_rate(LOWEST_RATE_BIT_S)} to {show_rate(HIGHEST_RATE_BIT_S)}"
        return f"the rate is {show_rate(step.rate_bit_s)}, a link carries {allowed}"
    if step.delay_s is not None and not 0 <= step.delay_s <= LONGEST_DELAY_S:
        allowed = f"0 to {show_duration(LONGEST_DELAY_S)}"
        return f"the delay is {show_duration(step.delay_s)}, a link delays by {allowed} one way"
    if step.loss is not None and not 0 <= step.loss < 1:
        return f"the loss is {show_fraction(step.loss)}, it must be below 100 %; an event takes a link down"
    return None


def _know(entry: Entry, allowed: Iterable[str]) -> None:
    for key in entry:
        if key not in allowed:
            raise ValueError(f"{key}: unknown key, {nearest(str(key), allowed)}allowed: {', '.join(allowed)}")


def _row(step: Step) -> list[str | None]:
    row = [
        show_duration(step.at_s, exact=True),
        None if step.rate_bit_s is None else show_rate(step.rate_bit_s, exact=True),
        None if step.delay_s is None else show_duration(step.delay_s, exact=True),
        None if step.loss is None else show_fraction(step.loss, exact=True),
    ]
    while row[-1] is None:
        row.pop()
    return row


def _trace(steps: Iterable[Labelled], period_s: float | None = None, repeat: str = "repeat") -> Trace:
    """The steps, each with where it was written, as a Trace if they make one. repeat: where the period was written."""
    found: list[Step] = []
    for where, step in steps:
        why = beyond(step)
        if why is None and step.rate_bit_s is None and step.delay_s is None and step.loss is None:
            why = "give a rate, a delay or a loss"
        if why is None and found and round(step.at_s - found[-1].at_s, 9) < LEAST_STEP_S:
            before, least = show_duration(found[-1].at_s), show_duration(LEAST_STEP_S)
            why = f"times must rise by {least} or more, and {show_duration(step.at_s)} comes after {before}"
        if why is None and len(found) == MOST_STEPS:
            why = f"a trace has {MOST_STEPS} steps at most"
        if why is not None:
            raise ValueError(f"{where}: {why}")
        found.append(step)
    if not found:
        raise ValueError("a trace has at least one step")
    if period_s is not None and round(period_s - found[-1].at_s, 9) < LEAST_STEP_S:
        period, last, least = (show_duration(s) for s in (period_s, found[-1].at_s, LEAST_STEP_S))
        raise ValueError(f"{repeat}: the period is {period}, it must end {least} or more after the last step, {last}")
    return Trace(tuple(found), period_s)


def _within(where: str, parse: Callable[[object], float], value: object) -> float:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _steps(entry: Entry, _: Path) -> Trace:
    rows = entry["steps"]
    if not isinstance(rows, list):
        raise ValueError(f"steps: give a list of {_STEP}")
    period = entry.get("repeat")
    period_s = None if period is None else _within("repeat", parse_duration, period)
    return _trace(((f"steps[{index}]", _step(f"steps[{index}]", row)) for index, row in enumerate(rows)), period_s)


def _step(where: str, row: Any) -> Step:
    if not isinstance(row, list) or not 2 <= len(row) <= 4:
        raise ValueError(f"{where}: give {_STEP}")
    at_s = _within(f"{where} time", parse_duration, row[0])
    names = (("rate", parse_rate), ("delay", parse_duration), ("loss", parse_fraction))
    pairs = zip(names, row[1:], strict=False)
    values = [None if value is None else _within(f"{where} {name}", parse, value) for (name, parse), value in pairs]
    return Step(at_s, *values)


def _file(entry: Entry, folder: Path) -> Trace:
    name = entry["file"]
    if not isinstance(name, str) or not name:
        raise ValueError('file: give a file\'s name, e.g. "wifi.csv"')
    kind, repeat = entry.get("format"), entry.get("repeat")
    rows, period_s = tracefiles.read(name, folder, kind)
    if period_s is not None:
        if repeat not in (None, True):
            raise ValueError("repeat: leave it out, a Mahimahi trace repeats after its last line")
    elif repeat is True:
        rows = list(rows)
        period_s = _last_as_long(name, [step for _, step in rows])
    elif repeat not in (None, False):
        if not isinstance(repeat, str):
            raise ValueError('repeat: give true, false or a period, e.g. "60 s"')
        period_s = _within("repeat", parse_duration, repeat)
    return _trace(rows, period_s)


def _last_as_long(name: str, steps: Sequence[Step]) -> float:
    """The period of a file whose last row lasts as long as the one before it."""
    if len(steps) < 2:
        raise ValueError(f"repeat: {name} has fewer than two rows, so nothing says how long one lasts: give a period")
    return round(2 * steps[-1].at_s - steps[-2].at_s, 9)


def _constant(entry: Entry, _: Path) -> Trace:
    return _trace([("constant", Step(0.0, _within("constant", parse_rate, entry["constant"])))])


def _quantities(entry: Entry, form: str, parsers: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """The keys of the mapping at `form`, each through its parser."""
    given = entry[form]
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise ValueError(f"{form}: give a mapping with {', '.join(parsers)}")
    try:
        _know(given, tuple(parsers))
    except ValueError as error:
        raise ValueError(f"{form}.{error}") from None
    return {key: _within(f"{form}.{key}", parsers[key], value) for key, value in given.items()}


def _onoff(entry: Entry, _: Path) -> Trace:
    parsers = {"rate": parse_rate, "low": parse_rate, "on": parse_duration, "off": parse_duration}
    said = _quantities(entry, "onoff", parsers)
    missing = [key for key in parsers if key not in said]
    if missing:
        example = "{rate: 10 Mbit/s, low: 1 Mbit/s, on: 5 s, off: 2 s}"
        raise ValueError(f"onoff.{missing[0]}: is missing, e.g. {example}")
    steps = [("onoff.rate", Step(0.0, said["rate"])), ("onoff.low", Step(said["on"], said["low"]))]
    return _trace(steps, said["on"] + said["off"], "onoff.off")


def _markov(entry: Entry, _: Path) -> Trace:
    keys = {"low": "low_bit_s", "high": "high_bit_s", "step": "step_s", "for": "for_s"}
    keys |= {"mean": "mean_bit_s", "std": "std_bit_s", "correlation": "correlation", "seed": "seed"}
    rates = dict.fromkeys(("low", "high", "mean", "std"), parse_rate)
    times = dict.fromkeys(("step", "for"), parse_duration)
    said = _quantities(entry, "markov", {**rates, **times, "correlation": _correlation, "seed": _seed})
    try:
        walk = Walk(**{keys[key]: value for key, value in said.items()})
        rates_bit_s = walk.rates_bit_s()
    except ValueError as error:
        raise ValueError(f"markov.{error}") from None
    steps = (
        (f"markov step {index}", Step(round(index * walk.step_s, 9), rate)) for index, rate in enumerate(rates_bit_s)
    )
    return _trace(steps, round(len(rates_bit_s) * walk.step_s, 9), "markov.step")


def _correlation(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError("give a number from 0 to below 1, e.g. 0.987")
    return float(value)


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("give a whole number, 0 or more")
    return value


FORMS: dict[str, tuple[Callable[[Entry, Path], Trace], tuple[str, ...]]] = {
    "file": (_file, ("format", "repeat")),
    "steps": (_steps, ("repeat",)),
    "constant": (_constant, ()),
    "onoff": (_onoff, ()),
    "markov": (_markov, ()),
}

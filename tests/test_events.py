"""Events: one line each, read strictly, and written so that they read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.events import FORMS, parse, show
from testbed.topology import Event, Step


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("at 30 s: h2 - s1 down for 5 s", Event(30.0, "down", ("h2", "s1"), for_s=5.0)),
        ("at 60 s: loss 5 %", Event(60.0, "set", change=Step(60.0, loss=0.05))),
        (
            "at 60 s: h2 - s1 rate 2 Mbit/s delay 20 ms for 10 s",
            Event(60.0, "set", ("h2", "s1"), change=Step(60.0, 2e6, 0.02), for_s=10.0),
        ),
        ("at 90 s: kill h3", Event(90.0, "kill", host="h3")),
        ("at 0 s: h2 - s1 loss 0%", Event(0.0, "set", ("h2", "s1"), change=Step(0.0, loss=0.0))),
        (
            "  at  1.5min:  delay 5ms   loss 1 % for  500ms ",
            Event(90.0, "set", None, None, Step(90.0, None, 0.005, 0.01), 0.5),
        ),
        # Names may be any word: what follows says what they are.
        ("at 1 s: kill - down down for 1 s", Event(1.0, "down", ("kill", "down"), for_s=1.0)),
        ("at 1 s: rate - loss rate 1 Mbit/s", Event(1.0, "set", ("rate", "loss"), change=Step(1.0, 1e6))),
        ("at 1 s: kill kill", Event(1.0, "kill", host="kill")),
    ],
)  # fmt: skip
def test_reads_and_writes_back(text: str, event: Event) -> None:
    assert parse(text) == event
    assert parse(show(event)) == event


def test_the_forms_that_are_offered_are_allowed_and_as_they_are_written() -> None:
    assert [show(parse(form)) for form in FORMS] == list(FORMS)


names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,30}", fullmatch=True)
times = st.floats(0, 1e6)
lengths = st.floats(1e-3, 1e6)
changes = st.tuples(
    st.none() | st.floats(64e3, 1e9), st.none() | st.floats(0, 1), st.none() | st.floats(0, 0.999)
).filter(any)


@st.composite
def any_event(draw: st.DrawFn) -> Event:
    at_s = draw(times)
    kind = draw(st.sampled_from(["down", "set", "kill"]))
    if kind == "kill":
        return Event(at_s, "kill", host=draw(names))
    if kind == "down":
        return Event(at_s, "down", draw(st.tuples(names, names)), for_s=draw(lengths))
    ends = draw(st.none() | st.tuples(names, names))
    return Event(at_s, "set", ends, change=Step(at_s, *draw(changes)), for_s=draw(st.none() | lengths))


@given(any_event())
def test_what_is_written_reads_back_to_the_last_bit(event: Event) -> None:
    assert parse(show(event)) == event


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", 'give "at TIME: WHAT"; allowed: at 30 s: h2 - s1 down for 5 s; '),
        ("kill h3", 'give "at TIME: WHAT"'),
        ("at 3 s kill h3", 'give "at TIME: WHAT"'),
        ("at 3 s:", 'give "at TIME: WHAT"'),
        ("At 3 s: kill h3", 'give "at TIME: WHAT"'),
        ("at 3: kill h3", 'at 3: give a unit, e.g. "5 ms"'),
        ("at : kill h3", "at: give a duration"),
        ("at -3 s: kill h3", "at -3 s: a duration must not be negative"),
        ("at 3 s: kil h3", '"kil" is unknown, did you mean "kill"? allowed: at 30 s'),
        ("at 3 s: kill", "kill takes one host; allowed"),
        ("at 3 s: kill h3 h4", "kill takes one host"),
        ("at 3 s: kill h3 for 5 s", "kill takes one host"),
        ("at 3 s: h2 - s1", "say what happens to h2 - s1: down, rate, delay or loss; allowed"),
        ("at 3 s: h2 -", "say what happens to h2 -"),
        ("at 3 s: h2-s1 down for 5 s", '"h2-s1" is unknown, allowed'),
        ("at 3 s: h2 - s1 dwon for 5 s", '"dwon" is unknown, did you mean "down"?'),
        ("at 3 s: h2 - s1 kill", '"kill" is unknown'),
        ("at 3 s: h2 - s1 down", "say how long the link is down; allowed"),
        ("at 3 s: h2 - s1 down 5 s", "say how long the link is down"),
        ("at 3 s: h2 - s1 down for", "for: give a duration"),
        ("at 3 s: h2 - s1 down for 5", "for 5: give a unit"),
        ("at 3 s: h2 - s1 down for 5 s or so", "for 5 s or so: give a duration"),
        ("at 3 s: h2 - s1 down for 0 s", "for 0 s: give 1 ms or more"),
        ("at 3 s: down for 5 s", "say which link is down; allowed"),
        ("at 3 s: for 5 s", '"for" is unknown'),
        ("at 3 s: loss", "loss: give a fraction"),
        ("at 3 s: loss for 5 s", "loss for: give a fraction"),
        ("at 3 s: loss 5", 'loss 5: give a unit, e.g. "1 %"'),
        ("at 3 s: rate 5 for 5 s", "rate 5: give a unit"),
        ("at 3 s: loss 5 % dealy 3 ms", '"dealy" is unknown, did you mean "delay"?'),
        ("at 3 s: loss 5 % jitter 3 ms", '"jitter" is unknown'),
        ("at 3 s: loss 5 % loss 6 %", "loss is there twice"),
        ("at 3 s: rate 10 Mbps", '"Mbps" is no unit of a rate'),
        ("at 3 s: rate 1 kbit/s", "the rate is 1 kbit/s, a link carries 64 kbit/s to 1 Gbit/s"),
        ("at 3 s: delay 2 s", "the delay is 2 s, a link delays by 0 to 1 s one way"),
        ("at 3 s: loss 100 %", "the loss is 100 %, it must be below 100 %"),
        ("at 3 s: kill h3\nat 4 s: kill h2", 'give "at TIME: WHAT"'),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)

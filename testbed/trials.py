"""What to send over a path so that every quantity of it can be judged: sizes, repeats, trains, time limits. Pure.

The rate is that of a long TCP transfer where TCP fills the link, and of trains of datagrams where it cannot: where
packets are lost, where the queue holds less than one round trip, where acknowledgements have too little room. Messages
are repeated until some lost nothing; those for which that is not to be expected are not judged, and the row says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from testbed import counting
from testbed.counting import Spread
from testbed.judge import Sent, loss_band
from testbed.linetime import (
    FULL_FRAME_BYTES,
    SEGMENT_BYTES,
    answers_of,
    expected,
    expected_goodput_bit_s,
    expected_train_bit_s,
    frames_in_flight,
    has_loss,
    jitter_s,
    least_queue_bytes,
    lost_before,
    plain,
    slowest,
)
from testbed.paths import Path
from testbed.shape import free_bytes
from testbed.units import show_duration, show_rate, show_size

MESSAGE_BYTES = (1000, 4000, 16000, 64000, 256000)
PING_BYTES = 16  # as in runtime.messages
_FULL_DATAGRAM_BYTES = 1472
_LONGEST_GAP_S = 0.025
_QUEUE_USED = 0.9  # of the smallest queue: what a message may put into it at once
_FRAMES_TO_SPARE = {False: 4, True: 16}  # in TCP's window, so that an acknowledgement delayed or lost does not stop it
_FIRST_WINDOW_FRAMES = 10
_LONGEST_MESSAGE_S = 2.0
_LIMIT_S, _LIMIT_RTTS = 120.0, 60  # what a path that does not answer may cost
_SMALL_S = 5.0  # more for pings, 1 and 4 kB, which are to be judged on every link
_LEAST_CHANCE = 0.2  # of losing nothing; sizes below it are not tried
_ANSWER_SHARE = 0.06  # of the rate: what acknowledgements need on the way back, twice over


@dataclass(frozen=True)
class Trial:
    """How one path is measured. wanted: what is judged, and its truth; not_judged: the rest, and why not.

    words: options of `runtime.echo measure`; limit_s: after which to give up. pings, datagrams, train,
    spread are what `judge.bands` needs.
    """

    wanted: dict[str, Any]
    not_judged: dict[str, str]
    words: list[str]
    limit_s: float
    pings: int
    datagrams: int
    train: Sent | None
    spread: Spread


@dataclass
class _Draft:
    over: Path
    shaper: str
    thorough: bool
    words: dict[str, list[str]] = field(default_factory=dict)
    not_judged: dict[str, str] = field(default_factory=dict)
    limit_s: float = 10.0

    @property
    def rtt_s(self) -> float:
        return expected(self.over, PING_BYTES, self.shaper)

    @property
    def jitters_s(self) -> float:
        return sum(jitter_s(self.over))


def gap_s(paths: Iterable[Path], due_s: float = 0.0) -> float:
    """How long to leave links idle before a message that takes `due_s`: what any bucket can then let go shows in it.

    At least until the declared bucket of the slowest link is full again.
    """
    rates = [hop.lane.rate_bit_s for over in paths for hop in over.hops if math.isfinite(hop.lane.rate_bit_s)]
    return 1e-3 + 1.2 * max(free_bytes(rate, "tbf") * 8 / rate for rate in rates) + min(due_s, _LONGEST_GAP_S)


def tcp_fills(over: Path, shaper: str) -> str:
    """Why a long TCP transfer cannot tell the rate of a path; "" if it can."""
    if has_loss(over):
        return "TCP slows down where packets are lost"
    if any(hop.lane.reorder and hop.lane.jitter_s for hop in (*over.hops, *answers_of(over))):
        return "TCP takes packets out of order for lost ones"
    if frames_in_flight(over, shaper) * FULL_FRAME_BYTES > least_queue_bytes(over):
        return f"the queue of {show_size(least_queue_bytes(over))} is less than what is on its way in one round trip"
    back_bit_s = min(hop.lane.rate_bit_s for hop in answers_of(over))
    if back_bit_s < _ANSWER_SHARE * over.rate_bit_s:
        return f"acknowledgements need more than the {show_rate(back_bit_s)} of the way back"
    return ""


def trial(over: Path, shaper: str, thorough: bool) -> Trial:
    """How to measure a path, with all repeats or (`thorough` False) with few."""
    draft = _Draft(over, shaper, thorough)
    datagrams, spread = _count(draft), _delays(draft)
    pings, wanted_messages = (_plain_messages if plain(over, shaper) else _whole_messages)(draft)
    wanted = {"rtt_s": draft.rtt_s, "spread_s": spread.spread_s}
    if counting.jitters(over):
        wanted["reordered"] = spread.reordered
    fills = tcp_fills(over, shaper)
    rate_bit_s = expected_train_bit_s(over)
    shape = train_shape(rate_bit_s, least_queue_bytes(over), thorough)
    if fills:
        draft.not_judged["goodput_bit_s"] = fills
        wanted["rate_bit_s"] = rate_bit_s
        draft.words["train"] = [train_words(*shape)] * (2 if thorough else 1)
        draft.limit_s += 6 * shape[0] * shape[1]
    else:
        wanted["goodput_bit_s"] = expected_goodput_bit_s(over)
    _stream(draft, bool(fills))
    draft.words["grace-s"] = [str(draft.rtt_s + draft.jitters_s + 0.1)]
    draft.words["connect-s"] = ["15" if has_loss(over) else str(3 + 2 * draft.rtt_s)]
    words = [word for key, values in draft.words.items() for word in (f"--{key}", *values)]
    return Trial(
        wanted | {"message_s": wanted_messages, "loss": over.loss},
        draft.not_judged,
        words,
        min(draft.limit_s, _LIMIT_S + _LIMIT_RTTS * draft.rtt_s),
        pings,
        datagrams,
        Sent(shape[0], shape[0] * shape[1], lost_before(over.hops, slowest(over.hops))) if fills else None,
        spread,
    )


# Messages -----------------------------------------------------------------------------------------------------------


def _due(draft: _Draft) -> dict[int, float]:
    """Sizes that would take longer than 2 s are left out, but never 1, 4, 16 kB."""
    times_s = {size: expected(draft.over, size, draft.shaper) for size in MESSAGE_BYTES}
    for size, t in times_s.items():
        if size > 16000 and t > _LONGEST_MESSAGE_S + draft.over.rtt_s:
            why = f"it takes {show_duration(t)}, more than {show_duration(_LONGEST_MESSAGE_S)} and the round trip"
            draft.not_judged[f"message_s {size}"] = why
    return {size: t for size, t in times_s.items() if f"message_s {size}" not in draft.not_judged}


def _plain_messages(draft: _Draft) -> tuple[int, dict[str, float]]:
    # Long messages need few repeats: what the machine's other work adds to them is far below 5 %.
    due, pings = _due(draft), 10
    budget_s = 0.7 if draft.thorough else 0.5
    repeats = {size: min(5, max(1, int(budget_s / (s + 1e-3)))) for size, s in due.items()}
    gaps_s = {size: gap_s([draft.over], s) for size, s in due.items()}
    due_s = sum(repeats[size] * (s + gaps_s[size]) for size, s in due.items()) + pings * gap_s([draft.over])
    patience_s = 3 * due_s + 3.0
    draft.words["messages"] = [
        f"{PING_BYTES}:{pings}:{gap_s([draft.over])}",
        *(f"{size}:{count}:{gaps_s[size]}" for size, count in repeats.items()),
    ]
    draft.words["patience-s"] = [str(patience_s)]
    draft.limit_s += 2 * patience_s
    return pings, {str(size): s for size, s in due.items()}


def _whole_messages(draft: _Draft) -> tuple[int, dict[str, float]]:
    """Messages of which some must lose nothing, with a window that covers them or at least one round trip."""
    over, due, words = draft.over, _due(draft), list[str]()
    round_trip = math.ceil(frames_in_flight(over, draft.shaper)) + _FRAMES_TO_SPARE[has_loss(over)]
    most_bytes = int(_QUEUE_USED * least_queue_bytes(over) / FULL_FRAME_BYTES) * SEGMENT_BYTES
    pings = max(4, min(10, int(0.8 / draft.rtt_s)))
    budgets_s = [_SMALL_S + _budget_s(draft, pings, draft.rtt_s, _chance(over, PING_BYTES))]
    words.append(f"{PING_BYTES}:{pings}:{gap_s([over])}:0:{budgets_s[0]}")
    wanted = {}
    for size, s in due.items():
        window_bytes = min(size, round_trip * SEGMENT_BYTES)
        if window_bytes > most_bytes:
            queue = show_size(least_queue_bytes(over))
            draft.not_judged[f"message_s {size}"] = f"the queue of {queue} holds neither it nor one round trip"
            continue
        chance = _chance(over, size) * (
            _chance(over, size) if window_bytes > _FIRST_WINDOW_FRAMES * SEGMENT_BYTES else 1
        )
        if chance < _LEAST_CHANCE and size > 4000:
            times = f"once in {1 / chance:.0f} times" if chance > 0.01 else "hardly ever"
            draft.not_judged[f"message_s {size}"] = f"it crosses whole {times}"
            continue
        wanted[str(size)] = s
        repeats = min((3 if draft.thorough else 2) if has_loss(over) else 5, max(1 if s > 1 else 2, int(0.45 / s)))
        budgets_s.append(_budget_s(draft, repeats, s, chance) + (_SMALL_S + 10 * s if size <= 4000 else 0))
        words.append(f"{size}:{repeats}:{gap_s([over], min(s - over.rtt_s, s / 4))}:{window_bytes}:{budgets_s[-1]}")
    draft.words["messages"] = words
    draft.words["window-bytes"] = [str(most_bytes)]
    draft.words["patience-s"] = [str(20 + 10 * draft.rtt_s)]
    draft.limit_s += 2 * sum(budgets_s) + 40 + 10 * draft.rtt_s
    return pings, wanted


def _chance(over: Path, size_bytes: int) -> float:
    """That every frame of a message and its answer arrive."""
    back = math.prod(1 - hop.lane.loss.mean for hop in answers_of(over))
    return float((1 - over.loss) ** math.ceil(size_bytes / SEGMENT_BYTES) * back)


def _budget_s(draft: _Draft, repeats: int, due_s: float, chance: float) -> float:
    """Seconds for the tries of one size: enough for the window to grow and, up to 2 s, for those that lose packets."""
    once_s = due_s + gap_s([draft.over], due_s / 4)
    sound_s = (repeats + 6) * once_s + 0.3
    if not has_loss(draft.over):
        return 2 * sound_s
    lost_s = due_s + 0.3 + draft.rtt_s  # until TCP has noticed and sent again
    tries_s = (repeats + 1) * (once_s + (1 / chance - 1) * lost_s)
    return float(min(max(1.2 if draft.thorough else 0.6, 6 * once_s), 2 * tries_s + once_s))


# Loss, rate ---------------------------------------------------------------------------------------------------------


def _count(draft: _Draft) -> int:
    """How many datagrams to count."""
    over, counted = draft.over, counting.for_loss(draft.over, draft.thorough)
    draft.words["loss"] = [counted.words]
    draft.limit_s += 4 * counted.count * counted.spacing_s
    if over.loss and not loss_band(over, counted.count)[0]:
        too_few = f"0 % lost would also have been accepted: {counted.count} datagrams are too few"
        draft.not_judged["loss"] = too_few
    return counted.count


def _delays(draft: _Draft) -> Spread:
    """What is due of datagrams whose delays are compared."""
    over, counted = draft.over, counting.for_jitter(draft.over, draft.thorough)
    draft.words["jitter"] = [counted.words]
    draft.limit_s += 4 * counted.count * counted.spacing_s
    due = counting.due_spread(over, counted)
    draft.not_judged |= due.not_judged(counting.jitters(over), counting.reorders(over))
    return due


def train_shape(rate_bit_s: float, queue_bytes: int, thorough: bool = True, share: int = 1) -> tuple[int, float, int]:
    """Datagrams of a train at this rate, seconds between two, how many at once at first: half of the queue at most.

    So few that, were the link faster, the first ones, at least a sixth of them, would show it. share: trains at once
    that fill one queue together.
    """
    spacing_s = FULL_FRAME_BYTES * 8 / rate_bit_s
    seconds = (0.3 if thorough else 0.2) / share**0.5
    head = max(1, min(200, queue_bytes // (2 * FULL_FRAME_BYTES)) // share)
    count = min(6 * head, max(12, int(seconds / spacing_s)))
    return count, spacing_s, min(head, count // 2)


def train_words(count: int, spacing_s: float, head: int) -> str:
    """A train of full frames as an option of `runtime.echo`."""
    return f"{count}:{_FULL_DATAGRAM_BYTES}:{spacing_s}:{head}"


def _stream(draft: _Draft, only_reported: bool) -> None:
    """The long transfer: at the line's rate from the start without delay, else after TCP's window has grown."""
    over, goodput_bit_s, skip_bytes = draft.over, expected_goodput_bit_s(draft.over), 0
    stream_s = 0.6 if draft.thorough else 0.4
    limit_factor, spare_s = 2.5, 1.0
    if only_reported:
        stream_s, limit_factor, spare_s = min(1.0, max(stream_s / 2, 4 * draft.rtt_s)), 1.0, 0.0
    elif not plain(over, draft.shaper):
        stream_s = max(stream_s, 20 * draft.rtt_s)
        skip_bytes = int(3 * frames_in_flight(over, draft.shaper) + _FIRST_WINDOW_FRAMES) * FULL_FRAME_BYTES
    stream_bytes = max(40 * SEGMENT_BYTES, int(goodput_bit_s * stream_s / 8)) + skip_bytes
    limit_s = limit_factor * stream_bytes * 8 / goodput_bit_s + spare_s
    draft.words["stream-bytes"] = [str(stream_bytes)]
    draft.words["stream-s"] = [str(min(limit_s, stream_s) if only_reported else limit_s)]
    draft.words["skip-bytes"] = [str(skip_bytes)]
    draft.limit_s += 2 * limit_s + (30 if only_reported else 0)

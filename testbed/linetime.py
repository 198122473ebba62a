"""How long a TCP message takes on links that are exactly as declared: the truth that `probe.py` compares with.

Truth is the line: 1538 bytes of it carry 1448 of payload. Every hop stores a frame, waits for its rate, sends it on,
and its delay passes. A hop whose shaper is a bucket lets `shape.free_bytes` go at once after idle; that much is known,
so it is expected. Towards a shared medium data and acknowledgements wait for one common rate, out of it for none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from testbed.paths import Hop, Path
from testbed.shape import LINE_OVERHEAD_BYTES, free_bytes

SEGMENT_BYTES = 1448  # TCP payload of a full frame: 1500 - 20 (IP) - 32 (TCP with timestamps)
HEADERS_BYTES = 14 + 20 + 32 + LINE_OVERHEAD_BYTES
FULL_FRAME_BYTES = SEGMENT_BYTES + HEADERS_BYTES
_FRAMES_PER_ANSWER = 2  # TCP acknowledges every second full frame
Times = list[float]


def _frames(payload_bytes: int) -> list[int]:
    """Bytes on the line, per frame, of a TCP message."""
    full, rest = divmod(payload_bytes, SEGMENT_BYTES)
    return [FULL_FRAME_BYTES] * full + ([rest + HEADERS_BYTES] if rest else [])


def answers_of(over: Path) -> tuple[Hop, ...]:
    """The way back; for a path that does not say, its own hops turned round."""
    return over.answers or tuple(hop.back for hop in reversed(over.hops))


def medium_of(hop: Hop) -> str | None:
    """The shared medium that this hop leads to; None for any other hop."""
    return hop.receiver if math.isinf(hop.back.lane.rate_bit_s) else None


def _media(hops: Sequence[Hop]) -> set[str]:
    return {medium for hop in hops if (medium := medium_of(hop))}


def _crossings_s(hops: Sequence[Hop], at_s: Sequence[float], frames: Sequence[int], shaper: str) -> Times:
    """Seconds at which each of `frames` has crossed idle links, when they are handed over at `at_s`, in that order."""
    now_s = list(at_s)
    for hop in hops:
        rate_bit_s = hop.lane.rate_bit_s
        if math.isfinite(rate_bit_s):
            bucket = credit = free_bytes(rate_bit_s, shaper)
            sent_s = now_s[0]  # when this hop has sent the previous frame
            for i, frame in enumerate(frames):
                start_s = max(now_s[i], sent_s)
                credit = min(bucket, credit + (start_s - sent_s) * rate_bit_s / 8)
                sent_s = now_s[i] = start_s + max(0.0, frame - credit) * 8 / rate_bit_s
                credit = max(0.0, credit - frame)
        now_s = [t + hop.lane.delay_s for t in now_s]
    return now_s


def _crossing_s(hops: Sequence[Hop], frames: Sequence[int], shaper: str) -> float:
    """Seconds from handing over all `frames` at once to idle links until the last one has arrived."""
    return _crossings_s(hops, [0.0] * len(frames), frames, shaper)[-1]


def expected(over: Path, size_bytes: int, shaper: str) -> float:
    """Seconds from writing a TCP message of `size_bytes` (>= 1) to its one-byte answer. Assumes idle links.

    The answer queues behind acknowledgements where they come faster than the way back can carry them.
    """
    frames = _frames(size_bytes)
    arrived_s = _crossings_s(over.hops, [0.0] * len(frames), frames, shaper)
    acknowledged_s = arrived_s[_FRAMES_PER_ANSWER - 1 : -1 : _FRAMES_PER_ANSWER]
    back = answers_of(over)
    if _media(over.hops) & _media(back):  # the medium was busy with data when they came: they wait for its end
        acknowledged_s = [arrived_s[-1]] * len(acknowledged_s)
    answers = [HEADERS_BYTES] * len(acknowledged_s) + _frames(1)
    return _crossings_s(back, [*acknowledged_s, arrived_s[-1]], answers, shaper)[-1]


def _one_after_the_other(
    ways: Sequence[Sequence[Hop]], shared: Hop, starts: Sequence[Times], frames: Sequence[int], shaper: str
) -> list[float]:
    """Seconds at which the last of `frames` of each of two messages has crossed `shared`, where both wait in order of
    arrival, and then its own way. starts: when each frame of either one comes to `shared`."""
    order = sorted((at_s, i, which) for which, times in enumerate(starts) for i, at_s in enumerate(times))
    at_s = [at for at, _, _ in order]
    crossed_s = _crossings_s([shared], at_s, [frames[i] for _, i, _ in order], shaper)
    found = []
    for which, way in enumerate(ways):
        own_s = [at for at, (_, _, whose) in zip(crossed_s, order, strict=True) if whose == which]
        found.append(_crossings_s(way, own_s, frames, shaper)[-1])
    return found


def expected_push(first: Path, second: Path, size_bytes: int, shaper: str) -> float:
    """Seconds until two messages, sent at once over two paths that share only their first link, are both answered."""
    frames, both = _frames(size_bytes), (first, second)
    starts = [[0.0] * len(frames)] * 2
    arrived_s = _one_after_the_other([over.hops[1:] for over in both], first.hops[0], starts, frames, shaper)
    answers = _frames(1)
    if _media(first.hops) & _media(answers_of(first)):  # the last answer waits for the acknowledgements of both
        answers = [HEADERS_BYTES] * (2 * (len(frames) // _FRAMES_PER_ANSWER)) + answers
    return max(
        at_s + _crossing_s(answers_of(over), answers, shaper) for at_s, over in zip(arrived_s, both, strict=True)
    )


def expected_pull(first: Path, second: Path, size_bytes: int, request_bytes: int, shaper: str) -> float:
    """Seconds until two messages, asked for at once over two paths that share only their first link, are both there."""
    frames, backs = _frames(size_bytes), [answers_of(over) for over in (first, second)]
    shared = -2 if math.isinf(backs[0][-1].lane.rate_bit_s) else -1  # on a medium both wait for the way into it
    starts = []
    for over, back in zip((first, second), backs, strict=True):
        asked_s = _crossing_s(over.hops, _frames(request_bytes), shaper)
        starts.append(_crossings_s(back[:shared], [asked_s] * len(frames), frames, shaper))
    ways = [back[shared:][1:] for back in backs]
    return max(_one_after_the_other(ways, backs[0][shared], starts, frames, shaper))


def lost_before(hops: Sequence[Hop], hop: Hop) -> float:
    """Fraction of packets that never come to `hop`: they were lost on those of `hops` before it. Below 1."""
    return min(0.999, 1 - math.prod(1 - one.lane.loss.mean for one in hops[: hops.index(hop)]))


def slowest(hops: Sequence[Hop]) -> Hop:
    """The hop that holds a train of datagrams up; what was lost before it does not burden it."""
    return min(hops, key=lambda hop: hop.lane.rate_bit_s / (1 - lost_before(hops, hop)))


def expected_train_bit_s(over: Path) -> float:
    """Bit/s on the line of a train that keeps the slowest hop busy, the datagrams that get lost counted."""
    hop = slowest(over.hops)
    return hop.lane.rate_bit_s / (1 - lost_before(over.hops, hop))


def expected_together_bit_s(first: Path, second: Path, shared: Hop) -> float:
    """Likewise, of two equal trains at once that share only the hop `shared`, together."""
    halves = []
    for over in (first, second):
        # Out of a medium: the way into it is what both share.
        hop = shared if math.isfinite(shared.lane.rate_bit_s) else over.hops[over.hops.index(shared) - 1]
        halves.append(min(hop.lane.rate_bit_s / 2 / (1 - lost_before(over.hops, hop)), expected_train_bit_s(over)))
    return 2 * min(halves)


def expected_goodput_bit_s(over: Path) -> float:
    """Payload bit/s of a long transfer; on a shared medium its acknowledgements take their part."""
    shared = bool(_media(over.hops) & _media(answers_of(over)))
    answers_bytes = HEADERS_BYTES / _FRAMES_PER_ANSWER if shared else 0.0
    return over.rate_bit_s * SEGMENT_BYTES / (FULL_FRAME_BYTES + answers_bytes)


def frames_in_flight(over: Path, shaper: str) -> float:
    """Full frames that the path's rate sends while the first one travels and its answer comes back."""
    return over.rate_bit_s * expected(over, SEGMENT_BYTES, shaper) / (FULL_FRAME_BYTES * 8)


def least_queue_bytes(over: Path) -> int:
    """The smallest queue on the way."""
    return min(hop.lane.queue_bytes for hop in over.hops if math.isfinite(hop.lane.rate_bit_s))


def jitter_s(over: Path) -> list[float]:
    """Jitters of every hop there and back that has one."""
    return [hop.lane.jitter_s for hop in (*over.hops, *answers_of(over)) if hop.lane.jitter_s]


def has_loss(over: Path) -> bool:
    """Whether a packet may be lost on the way there or back."""
    return any(hop.lane.loss.mean > 0 for hop in (*over.hops, *answers_of(over)))


def plain(over: Path, shaper: str) -> bool:
    """Whether TCP's first window carries a message at the line's rate, each time: no loss, no delay to speak of."""
    delays = any(hop.lane.delay_s or hop.lane.jitter_s for hop in (*over.hops, *answers_of(over)))
    return not (delays or has_loss(over)) and frames_in_flight(over, shaper) <= 8


def loss_variance(over: Path, count: int) -> float:
    """Variance of the fraction lost of `count` packets sent over the path.

    Independent: p (1 - p) / N. A hop with bursts adds the covariance of the two-state chain: with pi its part of time
    in the bad state and r = 1 - enter - leave, packets k apart have pi (1 - pi) (bad - good)^2 r^k, so all pairs add
    2/N pi (1 - pi) (bad - good)^2 sum_k (1 - k/N) r^k.
    """
    variance = over.loss * (1 - over.loss) / count
    for loss in (hop.lane.loss for hop in over.hops if hop.lane.loss.bursty):
        bad = loss.enter / (loss.enter + loss.leave)
        ratio = 1 - loss.enter - loss.leave
        pairs = sum((1 - k / count) * ratio**k for k in range(1, count))
        variance += max(-variance, 2 / count * bad * (1 - bad) * (loss.bad - loss.good) ** 2 * pairs)
    return variance


def rtt_tolerance_s(over: Path, expected_s: float, pings: int) -> float:
    """How far the median RTT may be off: 5 % or 0.3 ms, and three standard errors of a median of uniform jitters."""
    error_s = 1.2533 * math.sqrt(sum(j * j for j in jitter_s(over)) / 3 / max(pings, 1))
    return max(0.05 * expected_s, 0.3e-3) + 3 * error_s


def tolerance_s(over: Path, expected_s: float) -> float:
    """How far a message time may be off: one packet time and 0.3 ms, or 5 %, and all jitters on the way.

    Where order is kept the last byte waits for the latest frame before it: at most a whole jitter later per hop.
    """
    return max(FULL_FRAME_BYTES * 8 / over.rate_bit_s + 0.3e-3, 0.05 * expected_s) + sum(jitter_s(over))

"""How long a TCP message takes on links that are exactly as declared: the truth that `probe.py` compares with.

Truth is the line: 1538 bytes of it carry 1448 of payload. Every hop stores a frame, waits for its rate, and sends it
on. A hop whose shaper is a bucket lets `shape.free_bytes` go at once after idle; that much is known, so it is expected.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.paths import Path
from testbed.shape import LINE_OVERHEAD_BYTES, free_bytes
from testbed.topology import Link

SEGMENT_BYTES = 1448  # TCP payload of a full frame: 1500 - 20 (IP) - 32 (TCP with timestamps)
HEADERS_BYTES = 14 + 20 + 32 + LINE_OVERHEAD_BYTES
FULL_FRAME_BYTES = SEGMENT_BYTES + HEADERS_BYTES


def _frames(payload_bytes: int) -> list[int]:
    """Bytes on the line, per frame, of a TCP message."""
    full, rest = divmod(payload_bytes, SEGMENT_BYTES)
    return [FULL_FRAME_BYTES] * full + ([rest + HEADERS_BYTES] if rest else [])


def _crossing_s(links: Sequence[Link], frames: Sequence[int], shaper: str) -> float:
    """Seconds from handing over all `frames` at once to idle links until the last one has arrived."""
    at_s = [0.0] * len(frames)
    for link in links:
        bucket = credit = free_bytes(link.rate_bit_s, shaper)
        sent_s = 0.0  # when this hop has sent the previous frame
        for i, frame in enumerate(frames):
            now_s = max(at_s[i], sent_s)
            credit = min(bucket, credit + (now_s - sent_s) * link.rate_bit_s / 8)
            sent_s = at_s[i] = now_s + max(0.0, frame - credit) * 8 / link.rate_bit_s
            credit = max(0.0, credit - frame)
    return at_s[-1] + sum(link.delay_s for link in links)


def expected(over: Path, size_bytes: int, shaper: str) -> float:
    """Seconds from writing a TCP message of `size_bytes` (>= 1) to its one-byte answer. Assumes idle links."""
    return _crossing_s(over.links, _frames(size_bytes), shaper) + _crossing_s(over.links, _frames(1), shaper)


def expected_fan(first: Path, second: Path, size_bytes: int, shaper: str) -> float:
    """Seconds to exchange two messages at once over two paths that share only their first link (answers included).

    The same whichever way the messages go: the shared link carries both, the others are half idle.
    """
    both = [frame for frame in _frames(size_bytes) for _ in range(2)]
    times_s = []
    for over in (first, second):
        shared_s = _crossing_s(over.links[:1], both, shaper)
        rest_s = _crossing_s(over.links[1:], both[-1:], shaper)
        times_s.append(max(shared_s + rest_s, _crossing_s(over.links, _frames(size_bytes), shaper)))
        times_s[-1] += _crossing_s(over.links, _frames(1), shaper)
    return max(times_s)


def expected_goodput_bit_s(over: Path) -> float:
    """Payload bit/s of a long transfer."""
    return over.rate_bit_s * SEGMENT_BYTES / FULL_FRAME_BYTES


def tolerance_s(over: Path, expected_s: float) -> float:
    """How far a message time may be off: one packet time and 0.3 ms, or 5 %."""
    return max(FULL_FRAME_BYTES * 8 / over.rate_bit_s + 0.3e-3, 0.05 * expected_s)

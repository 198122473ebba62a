"""What to send over two paths at once that share a host's own link, so that this link shows alone. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from testbed.judge import FAN_BYTES, Sent
from testbed.linetime import answers_of, expected, has_loss, jitter_s, lost_before, slowest
from testbed.paths import Path
from testbed.trials import PING_BYTES, gap_s, train_shape, train_words


def fan_messages(fan: tuple[Path, Path], due_s: float) -> tuple[list[str], float]:
    """Options of `runtime.echo fan`, and the seconds after which to give it up."""
    wait_s = gap_s(fan, due_s)
    patience_s = 3 * due_s + 3.0
    numbers = {"size-bytes": FAN_BYTES, "repeats": 5 if due_s < 0.01 else 3, "gap-s": wait_s, "patience-s": patience_s}
    words = [word for key, value in numbers.items() for word in (f"--{key}", str(value))]
    return words, 10 * (patience_s + wait_s) + 10


def fan_trains(
    push_bit_s: float, pull_bit_s: float, fan: Sequence[Path], thorough: bool
) -> tuple[list[str], float, list[Sent]]:
    """Options of `runtime.echo trains`; when to give it up; a train from and one to the host where the paths start.

    push_bit_s, pull_bit_s: due of both trains together.
    """
    words, limit_s, shapes = list[str](), 30.0, list[Sent]()
    rtt_s = max(expected(over, PING_BYTES, "relay") + sum(jitter_s(over)) for over in fan)
    for verb, bit_s, ways in (
        ("push", push_bit_s, [over.hops for over in fan]),
        ("pull", pull_bit_s, [answers_of(over) for over in fan]),
    ):
        queue_bytes = min(hop.lane.queue_bytes for hops in ways for hop in hops)
        count, spacing_s, head = train_shape(bit_s / 2, queue_bytes, thorough, share=2)
        words += [f"--{verb}", *[train_words(count, spacing_s, head)] * (2 if thorough else 1)]
        unburdened = max(lost_before(hops, slowest(hops) if verb == "push" else hops[-1]) for hops in ways)
        shapes.append(Sent(count, count * spacing_s, unburdened))
        limit_s += 8 * (count * spacing_s + rtt_s)
    slow = any(has_loss(over) for over in fan)
    return [*words, "--grace-s", str(rtt_s + 0.1), "--connect-s", "15" if slow else "5"], limit_s, shapes

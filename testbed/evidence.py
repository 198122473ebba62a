"""What a run folder says of its network: a verdict with its reasons, and lines about what happened on it. Pure.

verdict, the worst that holds, worst last: "ok"; "degraded" (as declared, but the emulation or a change was late, or
other frames were lost than declared); "unverified" (the run ended before its links were probed again); "wrong" (not the
declared network); "unshaped" where there is none to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from testbed.judge import last
from testbed.linktable import wrong_links
from testbed.store import RunData
from testbed.tables import digits, duration, size

ORDER = ("ok", "degraded", "unverified", "wrong")
NEVER = "its links were never probed"
NOT_AGAIN = "the run ended before its links were probed again"
LATE_S, LATE_SHARE = 0.05, 0.5  # a change may come so late, or by this part of the time for which it was to hold
LISTED = 3  # what is longer is counted and left to the file
Row = Mapping[str, Any]
Finding = tuple[str, str]  # verdict, reason


def network(run: RunData) -> dict[str, Any]:
    """{"verdict": see the head of this file, "reasons": [why it is not "ok"]}."""
    if run.topology.get("backend") == "local" or not run.topology.get("links"):
        return {"verdict": "unshaped", "reasons": []}
    found = [*_probed(run.links), *_watched(run.watch), *_changed(run.changes, run.watch)]
    worst = max((verdict for verdict, _ in found), key=ORDER.index, default="ok")
    return {"verdict": worst, "reasons": [reason for verdict, reason in found if verdict == worst]}


def method_verdict(run: RunData, label: str) -> str | None:
    """What was seen of the network while this method's requests ran; None if nothing was."""
    own = [row["verdict"] for row in run.watch if row["label"] == label]
    own += [verdict for verdict, _ in _changed([row for row in run.changes if row["label"] == label], run.watch)]
    return max(own, key=ORDER.index, default=None)


def _probed(links: Sequence[Row]) -> Iterator[Finding]:
    before, after = ([row for row in links if (row.get("when") == "after") is late] for late in (False, True))
    for rows, words in ((before, "before the run: "), (after, "after the run: ")):
        for row in last(rows):
            if row.get("verdict") != "ok":
                yield str(row.get("verdict")), words + wrong_links([row])[0].replace(" after ", " ")
    if not before:
        yield "unverified", NEVER
    elif not after and all(row.get("verdict") != "wrong" for row in last(before)):
        yield "unverified", NOT_AGAIN


def _watched(watch: Sequence[Row]) -> Iterator[Finding]:
    for row in watch:
        if row["verdict"] != "ok":
            yield row["verdict"], f"{row['label']}: {row['why']}"


def _changed(changes: Sequence[Row], watch: Sequence[Row]) -> Iterator[Finding]:
    for row in changes:
        if row.get("error"):
            yield "wrong", f"{row['label']}: {_what(row)} was not applied: {row['error']}"
    ends_s = {row["label"]: row.get("seconds", 0.0) for row in watch}
    for label in dict.fromkeys(row["label"] for row in changes):
        done = [row for row in changes if row["label"] == label and not row.get("error")]
        if words := _too_late(done, ends_s.get(label, 0.0)):
            yield "degraded", f"{label}: {words}"


def _too_late(changes: Sequence[Row], end_s: float) -> str | None:
    """How late the changes of one method came, if that is more than LATE_S and LATE_SHARE allow; else None.

    The last one of a direction was due to hold until the requests ended, at end_s.
    """
    late: list[tuple[float, float, Row]] = []
    following: dict[str, float] = {}
    for row in reversed(changes):
        allowed_s = max(LATE_S, LATE_SHARE * (following.get(row["where"], end_s) - row["at_s"]))
        if (late_s := row["applied_s"] - row["at_s"]) > allowed_s:
            late.append((late_s, allowed_s, row))
        following[row["where"]] = row["at_s"]
    if not late:
        return None
    late_s, allowed_s, row = max(late, key=lambda one: one[0])
    worst = f"{_what(row)} came {duration(late_s)} late, {duration(allowed_s)} are allowed"
    return f"{len(late)} of {len(changes)} changes came too late, the worst: {worst}" if len(changes) > 1 else worst


def lines(run: RunData) -> list[str]:
    """What happened on the network while methods ran, and what control cost: a line each."""
    found = [_loss_line(run.watch), _queue_line(run.watch), _late_line(run.watch), *change_lines(run.changes)]
    return [line for line in (*found, control_line(run.control)) if line]


def change_lines(changes: Sequence[Row]) -> list[str]:
    """One line per method, methods that met the same changes together; a change that was not applied is a reason."""
    done = [row for row in changes if not row.get("error")]
    alike: dict[str, list[str]] = {}
    for label in dict.fromkeys(row["label"] for row in done):
        alike.setdefault(_changes([row for row in done if row["label"] == label]), []).append(label)
    late_s = max((row["applied_s"] - row["at_s"] for row in done), default=0.0)
    ends = [f"; {duration(late_s)} late at most" if i == len(alike) - 1 else "" for i in range(len(alike))]
    return [
        f"the network changed while {', '.join(labels)} ran: {words}{end}"
        for (words, labels), end in zip(alike.items(), ends, strict=True)
    ]


def control_line(control: Row | None) -> str | None:
    """What Ray cost beside the links."""
    if not control:
        return None
    words = [f"up in {duration(control['ray_up_s'])}"]
    if control.get("memory_bytes") is not None:
        words.append(f"{size(control['memory_bytes'])} in {control['nodes']} nodes")
    if control.get("bytes_per_s") is not None:
        words.append(f"{size(control['bytes_per_s'])}/s beside the links")
    return f"control (Ray): {', '.join(words)}"


def _changes(rows: Sequence[Row]) -> str:
    """The changes that one method met, in the order in which they were due."""
    said = list(dict.fromkeys(_what(row) for row in rows))
    if len(said) <= LISTED:
        return "; ".join(said)
    first, last = (duration(edge(row["at_s"] for row in rows)) for edge in (min, max))
    where = list(dict.fromkeys(row["where"] for row in rows))
    places = ", ".join(where) if len(where) <= LISTED else f"{len(where)} places"
    return f"{len(rows)} changes of {places} from {first} to {last}, see changes.json"


def _what(row: Row) -> str:
    return f"at {duration(row['at_s'])} {row['where']} {row['what']}"


def _totals(watch: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Counters of every direction over all methods; `lost` None where the kernel does not tell."""
    total: dict[str, dict[str, Any]] = {}
    for row in watch:
        for name, seen in (row.get("directions") or {}).items():
            sums = total.setdefault(name, {"declared_loss": seen.get("declared_loss"), "lost": 0})
            for key in ("frames", "queue_drops"):
                sums[key] = sums.get(key, 0) + seen[key]
            sums["lost"] = None if None in (seen["lost"], sums["lost"]) else sums["lost"] + seen["lost"]
    return total


def _loss_line(watch: Sequence[Row]) -> str | None:
    """Loss seen against loss declared; directions of which the same is declared together."""
    groups: dict[Any, list[tuple[str, float]]] = {}
    frames = 0
    for name, sums in _totals(watch).items():
        sent = sums["frames"] + (sums["lost"] or 0)
        frames += sent
        if sums["lost"] is not None and sent and (sums["lost"] or sums["declared_loss"]):
            groups.setdefault(sums["declared_loss"], []).append((name, sums["lost"] / sent))
    if not groups:
        return None
    return (
        f"lost of {frames} frames while methods ran: {'; '.join(_losses(rate, seen) for rate, seen in groups.items())}"
    )


def _losses(declared: float | None, seen: Sequence[tuple[str, float]]) -> str:
    low, high = (_percent(edge(loss for _, loss in seen)) for edge in (min, max))
    where = seen[0][0] if len(seen) == 1 else f"{len(seen)} directions"
    due = "changing" if declared is None else f"{_percent(declared)} % declared"
    return f"{low if low == high else f'{low} to {high}'} % in {where} ({due})"


def _percent(fraction: float) -> str:
    return f"{digits(100 * fraction):g}"


def _queue_line(watch: Sequence[Row]) -> str | None:
    """Tail drops: a full queue is part of the declared network, so this is told and not judged."""
    drops = {name: sums["queue_drops"] for name, sums in _totals(watch).items() if sums["queue_drops"]}
    if not drops:
        return None
    first = sorted(drops, key=lambda name: -drops[name])[:LISTED]
    rest, others = len(drops) - LISTED, sum(drops.values()) - sum(drops[name] for name in first)
    more = [f"{others} in {rest} more direction{'s' * (rest > 1)}"] * (rest > 0)
    return (
        f"full queues dropped {sum(drops.values())} frames: {', '.join([*(f'{n} {drops[n]}' for n in first), *more])}"
    )


def _late_line(watch: Sequence[Row]) -> str | None:
    """How exactly the relay kept time, while the method ran for which that was worst; kernel shapers do not tell."""
    late = [(row["lateness"], row["seconds"]) for row in watch if (row.get("lateness") or {}).get("frames")]
    if not late:
        return None
    p99, most = (duration(max(found[key] for found, _ in late)) for key in ("p99_s", "most_s"))
    busy = max(found["cpu_s"] / max(seconds, 1e-9) for found, seconds in late)
    return f"relay: 99 % of frames under {p99} late, at most {most}; {busy:.2f} of a core"

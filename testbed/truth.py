"""What a good request must be, however fast: equal to single where promised, its bytes accounted for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EXACT_WITHIN = 1e-4


def untrue(rows: Sequence[Mapping[str, Any]], formula: Sequence[int], equals_single: bool | None) -> str | None:
    """Why the rows of one request, in rank order, the source's with its fidelity, cannot be right; None if they can.

    formula: payload bytes that each rank must send. equals_single: None where nothing was computed to be compared.
    """
    return (None if equals_single is None else _unequal(rows, equals_single)) or _unaccounted(rows, formula)


def _unequal(rows: Sequence[Mapping[str, Any]], equals_single: bool) -> str | None:
    error = next((row["fidelity"]["max_abs_error"] for row in rows if row.get("fidelity")), None)
    if error is None:
        return "the result was not compared with single's"
    if equals_single and not error <= EXACT_WITHIN:  # not: a NaN is no match
        return f"the result differs from single's by {error:.2g}, more than {EXACT_WITHIN:g}"
    return None


def _unaccounted(rows: Sequence[Mapping[str, Any]], formula: Sequence[int]) -> str | None:
    sent = [row["sent_bytes"] for row in rows]
    if sent != list(formula):
        return f"payload of {sent} bytes was sent, the formula says {list(formula)}"
    for row in rows:
        if leaks(row):
            return f"rank {row['rank']} sent {payload(row)} bytes, but only {row['wire_bytes']} left its interfaces"
    return None


def untold(rows: Sequence[Mapping[str, Any]], promised: Mapping[str, Any], equals_single: bool) -> str | None:
    """Why what was generated in one request cannot be right; None if it can. promised: `generation` of methods.json."""
    spoken, held = rows[0]["generated"], [row["kept_bytes"] for row in rows]
    if spoken is None or len(spoken) != promised["tokens"]:
        return f"{promised['tokens']} tokens were to be generated, not {0 if spoken is None else len(spoken)}"
    sent = [row["token_bytes"] for row in rows]
    if sent != promised["token_bytes"]:
        return f"{sent} bytes of new tokens were sent, the formula says {promised['token_bytes']}"
    if held[-1] != promised["kept_bytes"] or any(one is not None for one in held[:-1]):
        return f"{held} bytes of keys and values, or codes, were kept, the formula says {promised['kept_bytes']}"
    lead = (rows[0]["fidelity"] or {}).get("token_lead")
    if equals_single and lead is not None and not lead <= 2 * EXACT_WITHIN:
        return f"a token differs from single's, which was ahead of the next one by {lead:.2g}: no matter of rounding"
    return None


def payload(row: Mapping[str, Any]) -> int:
    """All bytes of content that a device sent in one request: between layers, of inputs, results and new tokens."""
    return int(row["sent_bytes"] + row["scatter_bytes"] + row["gather_bytes"] + row.get("token_bytes", 0))


def leaks(row: Mapping[str, Any]) -> bool:
    """Whether more was sent than left the device's interfaces; never where it has none of its own.

    A host that forwards counts there what it passes on, too: no false alarm, but a leak of its own may be hidden by it.
    Nothing is said of datagrams: a shaper that loses some does so before the interface counts them.
    """
    if row.get("dropped") is not None:
        return False
    return row["wire_bytes"] is not None and row["wire_bytes"] < payload(row)

"""What a good request must be, however fast: equal to single where promised, its bytes accounted for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EXACT_WITHIN = 1e-4


def untrue(rows: Sequence[Mapping[str, Any]], formula: Sequence[int], equals_single: bool) -> str | None:
    """Why the rows of one request, in rank order, the source's with its fidelity, cannot be right; None if they can.

    formula: payload bytes that each rank must send.
    """
    error = next((row["fidelity"]["max_abs_error"] for row in rows if row.get("fidelity")), None)
    if error is None:
        return "the result was not compared with single's"
    if equals_single and not error <= EXACT_WITHIN:  # not: a NaN is no match
        return f"the result differs from single's by {error:.2g}, more than {EXACT_WITHIN:g}"
    sent = [row["sent_bytes"] for row in rows]
    if sent != list(formula):
        return f"payload of {sent} bytes was sent, the formula says {list(formula)}"
    for row in rows:
        payload = row["sent_bytes"] + row["scatter_bytes"] + row["gather_bytes"]
        if row["wire_bytes"] is not None and row["wire_bytes"] < payload:
            return f"rank {row['rank']} sent {payload} bytes, but only {row['wire_bytes']} left its interfaces"
    return None

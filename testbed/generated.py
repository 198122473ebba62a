"""What a table says of generation: time to the first new token, time per further one, and what was kept for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.tables import NONE, duration, size

COLUMN = "TTFT\nper token"


def times(method: Mapping[str, Any]) -> str:
    """Time to the first new token, below it the time to each further one."""
    found = method.get("generation")
    if found is None or found["ttft_s"]["median"] is None:
        return NONE
    return f"{duration(found['ttft_s']['median'])}\n{duration(found['token_s']['median'])}"


def legend(methods: Sequence[Mapping[str, Any]]) -> str:
    """What latency and the column of new tokens are, where there are any."""
    return explained(sorted({method["generation"]["tokens"] for method in methods if method.get("generation")}))


def explained(counts: Sequence[int]) -> str:
    """The same for requests that generate so many tokens each."""
    if not counts:
        return ""
    if counts[-1] == 1:
        return "latency: until the source knows the one new token, and so TTFT"
    count = " or ".join(map(str, counts))
    return f"latency: until the source knows all {count} new tokens; TTFT: the first of them"


def kept(methods: Sequence[Mapping[str, Any]]) -> str:
    """What the device that generated held of all tokens in the end, of each method, beside its formula."""
    found = [(m["label"], m["generation"]) for m in methods if m["status"] == "ok" and m.get("generation")]
    words = [f"{label} {_kept(one)}" for label, one in found if one["kept_bytes"] is not None]
    full = max((one["full_bytes"] for _, one in found), default=0)
    return f"kept to generate (in full: {size(full)}): {'; '.join(words)}" if words else ""


def _kept(found: Mapping[str, Any]) -> str:
    """ "390 kB (43%, formula 390 kB)"."""
    share = found["kept_bytes"] / found["full_bytes"]
    return f"{size(found['kept_bytes'])} ({share:.0%}, formula {size(found['kept_formula'])})"

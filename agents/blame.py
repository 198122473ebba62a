"""Who is to blame for a request that failed, by what the devices report. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from runtime.plan import Plan

Row = Mapping[str, Any]


def blame(plan: Plan, request: int, rows: Mapping[int, Row], dead: Collection[int]) -> tuple[list[str], str]:
    """Hosts to blame and one line that says why. rows: of the ranks that answered; dead: ranks whose process ended.

    One fault makes every device lose a peer, so reports are weighed: a dead process first; then a device with an error
    of its own; then a peer that is missed and does not answer; and only then whoever is missed.
    """
    hosts = [share.host for share in plan.shares]
    reports = [row for row in rows.values() if row["error"]]
    own = sorted(row["rank"] for row in reports if row.get("lost_rank") is None)
    lost = {int(row["lost_rank"]) for row in reports if row.get("lost_rank") is not None}
    silent = set(range(plan.world)) - rows.keys()
    if dead:
        blamed, why = sorted(dead), "its process ended"
    elif own:
        blamed, why = own, "; ".join(dict.fromkeys(rows[rank]["error"] for rank in own))
    else:
        blamed = sorted(lost & silent or silent or lost)
        why = next((row["error"] for row in reports if row["lost_rank"] in blamed), "no answer")
    layers = [row["lost_layer"] for row in reports if row.get("lost_rank") in blamed and row["lost_layer"] is not None]
    span = plan.shares[blamed[0]].layers
    spoken = "" if plan.generation is None else " or while tokens were generated"  # for which nobody waits in a layer
    where = f"at layer {min(layers)}" if layers else f"in its layers {span.start} to {span.stop - 1}{spoken}"
    names, verb = [hosts[rank] for rank in blamed], "failed" if own and not dead else "lost"
    return names, f"{', '.join(names)} {verb} in {plan.method} {where}, request {request}: {why}"


def differing(hosts: Sequence[str], fingerprints: Sequence[str | None]) -> list[str]:
    """Hosts that do not hold the same, bit for bit, as the first."""
    return [host for host, found in zip(hosts, fingerprints, strict=True) if found != fingerprints[0]]

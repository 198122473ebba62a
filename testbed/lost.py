"""What was not there in time: tokens masked out because their codes were lost or late, datagrams of no use. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.quantities import counted

Row = Mapping[str, Any]


def lost(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Of the records of a method's measured requests, all devices: {"tokens", "due", "share", "datagrams"}.

    tokens: of other devices, masked out, once for each layer and device that missed one; due: those that could have
    been; share: of these; datagrams: of no use, by why, see `runtime.transport.Dropped`. None for a method that sends
    none, as on one device.
    """
    sent = [row for row in rows if row["dropped"] is not None]
    if not sent:
        return None
    tokens, due = (sum(row[key] for row in sent) for key in ("lost_tokens", "due_tokens"))
    if not due:
        return None
    reasons = dict.fromkeys(why for row in sent for why in row["dropped"])
    datagrams = {why: sum(row["dropped"].get(why, 0) for row in sent) for why in reasons}
    return {"tokens": tokens, "due": due, "share": tokens / due, "datagrams": datagrams}


def says(found: Mapping[str, Any]) -> str:
    """ "3.21 % of 9600 tokens, datagrams 3 late, 1 twice"."""
    share = f"{100 * found['share']:.3g} %" if found["tokens"] else "0"
    useless = [f"{count} {why}" for why, count in found["datagrams"].items() if count]
    return f"{share} of {counted(found['due'], 'token')}" + (f", datagrams {', '.join(useless)}" if useless else "")


def line(methods: Sequence[Mapping[str, Any]]) -> str:
    """One line for the methods that could lose anything, nothing where none could."""
    words = [f"{method['label']} {says(method['lost'])}" for method in methods if method["lost"] is not None]
    return f"not there in time and masked out, of all layers and devices: {'; '.join(words)}" if words else ""

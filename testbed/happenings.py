"""`events:` of a file: lines that `testbed/events.py` reads, checked against the hosts and links that there are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from testbed import events
from testbed.cables import ends, unfit
from testbed.topology import Event, Link, Step
from testbed.wiring import nearest
from testbed.yamlfile import Document, Place

_LOCAL = "the local backend has no links: only kill can happen there; leave this out, or use backend: mininet"


def read(document: Document, hosts: Sequence[str] | None, links: Mapping[int, Link]) -> tuple[Event, ...]:
    """The events that are sound. hosts: their names, None where they are in doubt; links: those that are right."""
    entries = document.value.get("events")
    if entries is None:
        return ()
    if not isinstance(entries, list):
        document.problem(("events",), "give a list of lines, e.g. [at 30 s: h2 - s1 down for 5 s]", entries)
        return ()
    found = []
    for index, item in enumerate(entries):
        place: Place = ("events", index)
        text = _line(item)
        if text is None:
            document.problem(place, 'give one line, e.g. "at 30 s: h2 - s1 down for 5 s"', item)
            continue
        try:
            event = events.parse(text)
        except ValueError as error:
            document.problem(place, str(error), text)
            continue
        for why in _problems(document, event, hosts, links):
            document.problem(place, why, text)
        found.append(event)
    return tuple(found)


def _line(item: Any) -> str | None:
    """YAML takes `at 30 s: kill h2` without quotes for a mapping of one key."""
    if isinstance(item, dict) and len(item) == 1:
        ((time, what),) = item.items()
        return f"{time}: {what}" if isinstance(what, str) else None
    return item if isinstance(item, str) else None


def _problems(document: Document, event: Event, hosts: Sequence[str] | None, links: Mapping[int, Link]) -> list[str]:
    if event.kind == "kill":
        known = hosts is None or event.host in hosts
        return [] if known else [_no_host(str(event.host), hosts or ())]
    if document.value.get("backend") == "local":
        return [_LOCAL]
    if event.ends is not None and hosts is not None:
        stranger = _stranger(document, event.ends)
        if stranger is not None:
            return [stranger]
    aimed = [link for link in links.values() if event.ends is None or {link.a, link.b} == set(event.ends)]
    whys = [_unfit(event.change, link) for link in aimed if event.change is not None]
    return [why for why in whys if why is not None][:1]  # one event, one line


def _no_host(name: str, hosts: Sequence[str]) -> str:
    return f"there is no host {name}; {nearest(name, hosts)}hosts: {', '.join(hosts)}"


def _stranger(document: Document, pair: tuple[str, str]) -> str | None:
    """That no link joins these two; None where there is one or some link cannot be read."""
    entries = document.value.get("links")
    pairs = [ends(entry) for entry in entries] if isinstance(entries, list) else []
    known = [f"{a} - {b}" for a, b in filter(None, pairs)]
    ways = [" - ".join(pair), " - ".join(reversed(pair))]
    if len(known) < len(pairs) or any(way in known for way in ways):
        return None
    close = nearest(ways[0], known) or nearest(ways[1], known)
    return f"there is no link between {pair[0]} and {pair[1]}; {close}links: {', '.join(known) or 'none'}"


def _unfit(change: Step, link: Link) -> str | None:
    """Why a link cannot take the values of an event, or None."""
    if change.rate_bit_s is not None and math.inf in (link.up.rate_bit_s, link.down.rate_bit_s):
        medium = link.a if math.isinf(link.up.rate_bit_s) else link.b
        return f"{medium} is a shared medium, whose rate stays: leave the rate out, or name another link"
    why = unfit(change, max(link.up.jitter_s, link.down.jitter_s))
    return None if why is None else f"on {link.a} - {link.b} {why}"

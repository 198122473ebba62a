"""A topology as the text of a file, every default written out and every quantity with its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import yaml

from runtime.plan import Generation
from testbed import events, traces, units
from testbed.topology import Lane, Link, Loss, Switch, Topology


class _Dumper(yaml.CSafeDumper if hasattr(yaml, "CSafeDumper") else yaml.SafeDumper):  # type: ignore[misc]
    """Writes everything out: topology files have no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(topology: Topology) -> str:
    """YAML, every default written out, that `schema.read` turns back into an equal Topology."""
    hosts: dict[str, Any] = {}
    for host in topology.hosts:
        memory = None if host.memory_bytes is None else units.show_size(host.memory_bytes)
        hosts[host.name] = {key: value for key, value in (("cpu", host.cpu), ("memory", memory)) if value is not None}
    text: dict[str, Any] = {"name": topology.name, "backend": topology.backend, "hosts": hosts}
    if topology.switches:
        text["switches"] = {switch.name: _switch_entry(switch) for switch in topology.switches}
    text |= _links(topology)
    if topology.events:
        text["events"] = [events.show(event) for event in topology.events]
    run = topology.run
    text["run"] = {
        "source": run.source,
        "model": run.model,
        "weights": run.weights,
        "seed": run.seed,
        "tokens": run.tokens,
        "inputs": run.inputs,
        "methods": [{spec.method: dict(spec.options)} if spec.options else spec.method for spec in run.methods],
        "repeats": run.repeats,
        "budget": units.show_duration(run.budget_s, exact=True),
        "compute": "real" if run.compute is None else {"replay": run.compute},
        "input_at": run.input_at,
        **({} if run.generate is None else {"generate": _generate_entry(run.generate)}),
    }
    return yaml.dump(text, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def _generate_entry(how: Generation) -> dict[str, Any]:
    if how.temperature is None:
        return {"tokens": how.tokens, "sampling": "greedy"}
    drawn = {"temperature": how.temperature, **({} if how.top_k is None else {"top_k": how.top_k})}
    return {"tokens": how.tokens, "sampling": drawn, "seed": how.seed}


def _switch_entry(switch: Switch) -> dict[str, str]:
    rate = {} if switch.rate_bit_s is None else {"rate": units.show_rate(switch.rate_bit_s, exact=True)}
    return {"type": switch.kind, **rate}


def steps_before(links: Sequence[Link]) -> list[int]:
    """How many steps of traces are written out up to each link and with it; what all links share is written once."""
    if len(links) > 1 and all((link.up, link.down) == (links[0].up, links[0].down) for link in links):
        return [_steps(links[0])] * len(links)
    return list(accumulate(_steps(link) for link in links))


def _steps(link: Link) -> int:
    lanes = [link.up] if link.up == link.down else [link.up, link.down]
    return sum(len(lane.trace.steps) for lane in lanes if lane.trace is not None)


def _links(topology: Topology) -> dict[str, Any]:
    """What all links have in common once: a trace may be long."""
    entries = [_link_entry(link) for link in topology.links]
    names = [f"{link.a} - {link.b}" for link in topology.links]
    if len(entries) > 1 and all(entry == entries[0] for entry in entries):
        return {"defaults": {"link": entries[0]}, "links": names}
    return (
        {"links": [{"between": pair, **entry} for pair, entry in zip(names, entries, strict=True)]} if entries else {}
    )


def _link_entry(link: Link) -> dict[str, Any]:
    """One set of quantities, or one per direction where they differ. At a shared medium the rate is not the link's."""
    up, down = _lane_entry(link.up), _lane_entry(link.down)
    if math.inf in (link.up.rate_bit_s, link.down.rate_bit_s):
        del up["rate"], down["rate"]
    return up if up == down else {"up": up, "down": down}


def _lane_entry(lane: Lane) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "rate": None if math.isinf(lane.rate_bit_s) else units.show_rate(lane.rate_bit_s, exact=True),
        "delay": units.show_duration(lane.delay_s, exact=True),
        "jitter": units.show_duration(lane.jitter_s, exact=True),
        "reorder": lane.reorder,
        "loss": _loss_entry(lane.loss),
    }
    if not math.isinf(lane.rate_bit_s):  # out of a shared medium nothing waits
        entry["queue"] = units.show_size(lane.queue_bytes)
    if lane.trace is not None:
        entry["trace"] = traces.write(lane.trace)
    return entry


def _loss_entry(loss: Loss) -> Any:
    if loss == Loss(good=loss.good):
        return units.show_fraction(loss.good, exact=True)
    return {key: units.show_fraction(getattr(loss, key), exact=True) for key in ("enter", "leave", "bad", "good")}

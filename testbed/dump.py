"""A topology as the text of a file, every default written out and every quantity with its unit."""

from __future__ import annotations

from typing import Any

import yaml

from testbed import units
from testbed.topology import Link, Topology


def write(topology: Topology) -> str:
    """YAML, every default written out, that `schema.read` turns back into an equal Topology."""
    hosts: dict[str, Any] = {}
    for host in topology.hosts:
        memory = None if host.memory_bytes is None else units.show_size(host.memory_bytes)
        hosts[host.name] = {key: value for key, value in (("cpu", host.cpu), ("memory", memory)) if value is not None}
    text: dict[str, Any] = {"name": topology.name, "backend": topology.backend, "hosts": hosts}
    if topology.switches:
        text["switches"] = {switch.name: {"type": switch.kind} for switch in topology.switches}
    if topology.links:
        text["links"] = [_link_entry(link) for link in topology.links]
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
    }
    return yaml.safe_dump(text, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def _link_entry(link: Link) -> dict[str, str]:
    return {
        "between": f"{link.a} - {link.b}",
        "rate": units.show_rate(link.rate_bit_s, exact=True),
        "delay": units.show_duration(link.delay_s, exact=True),
        "jitter": units.show_duration(link.jitter_s, exact=True),
        "loss": units.show_fraction(link.loss, exact=True),
        "queue": units.show_size(link.queue_bytes),
    }

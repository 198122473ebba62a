"""Run folders whose every number is a formula, for tests of what is read from them; written as a run writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.record import Record
from testbed.manifest import manifest
from testbed.store import RunFolder

RUN_YAML = """\
name: {name}
backend: mininet
hosts: {{h1: {{cpu: 0.5}}, h2: {{cpu: 0.5}}}}
{network}
run: {{source: h1, model: vit-base, weights: {weights}, seed: {seed}, tokens: 16, repeats: {requests}, budget: 60 s}}
"""
STAR = (
    "switches: [s1]\n"
    "links: [{{between: h1 - s1, rate: {rate}, delay: {delay}}}, {{between: h2 - s1, rate: {rate}, delay: {delay}}}]"
)
CABLE = "links: [{{between: h1 - h2, rate: {rate}, delay: {delay}}}]"
PROFILE = """\
profile: small-board
model: {layers: 12, width: 768}
entries:
  - {method: single, tokens: 16, devices: 1, total: 400 ms}
  - {method: sequence, tokens: 16, devices: 2, total: 200 ms}
"""
MACHINE = {"cores": 8, "cpu": "a processor", "memory_bytes": 8 * 10**9, "kernel": "6.1", "system": "a system"}
COMPUTE_S = {"single": 0.4, "sequence": 0.2, "astra G=1": 0.24, "astra G=16": 0.25}
SENT_BYTES = {"single": 0, "sequence": 500_000, "astra G=1": 2_000, "astra G=16": 32_000}  # of each device
COSINE = {"single": 1.0, "sequence": 1.0, "astra G=1": 0.95, "astra G=16": 0.99}
RATES = {"10 Mbit/s": 1e7, "100 Mbit/s": 1e8}
LAYERS = 3
DUE = {"rtt_s": 1e-4, "goodput_bit_s": 9.4e6, "message_s": {"16000": 0.0117}}


@dataclass(frozen=True)
class Made:
    """What is to be in a run folder; by default a short good run of two devices."""

    rate: str = "10 Mbit/s"
    delay: str = "1 ms"
    network: str = STAR
    labels: Sequence[str] = tuple(COMPUTE_S)
    requests: int = 4
    name: str = "star2"
    weights: str = "pretrained"
    seed: int = 0
    host: str = "h2"
    verdict: str = "ok"
    timeline: bool = True
    manifest: Mapping[str, Any] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


def latency_s(made: Made, label: str, request: int) -> float:
    """Compute, then the bytes of both devices through the link, and a little more with every request."""
    rate = RATES[made.rate]
    return COMPUTE_S[label] * (1 + request / 100) + 2 * SENT_BYTES[label] * 8 / rate


def made(path: Path, what: Made | None = None) -> Path:
    """Write such a run folder; request 0 is a warm-up that would spoil every figure if it were counted."""
    what = what or Made()
    network = what.network.format(rate=what.rate, delay=what.delay)
    with RunFolder.create("star2", path) as folder:
        folder.write_text(
            "run.yaml",
            RUN_YAML.format(
                name=what.name, network=network, weights=what.weights, requests=what.requests, seed=what.seed
            ),
        )
        facts = {"git": None, "machine": MACHINE, "compute": "real", **what.manifest}
        folder.write_json("manifest.json", manifest([], {"run": what.seed}, facts))
        folder.write_json("links.json", links(what.verdict))
        folder.write_json("methods.json", [_method(what, label) for label in (*what.labels, *what.failed)])
        for label in what.labels:
            for request in range(what.requests + 1):
                for rank in range(1 if label == "single" else 2):
                    folder.append_record(record(what, label, request, rank))
                    if what.timeline:
                        folder.append_timeline(timeline(what, label, request, rank))
    return path


def links(verdict: str) -> list[dict[str, Any]]:
    """One path, before and after."""
    row = {
        "when": "before", "from": "h1", "to": "h2", "attempt": 1, "declared": {"rate_bit_s": 1e7}, "expected": DUE,
        "measured": {**DUE, "goodput_bit_s": 9.12e6}, "verdict": verdict, "why": "" if verdict == "ok" else "too slow",
    }  # fmt: skip
    return [row, {**row, "when": "after"}]


def _method(what: Made, label: str) -> dict[str, Any]:
    devices = 1 if label == "single" else 2
    formula = [SENT_BYTES[label]] * devices if label in SENT_BYTES else None
    status = "failed" if label in what.failed else "ok"
    return {
        "method": label.split()[0], "label": label, "options": {}, "status": status, "error": what.failed.get(label),
        "equals_single": not label.startswith("astra"), "payload_formula": formula,
    }  # fmt: skip


def record(what: Made, label: str, request: int, rank: int) -> dict[str, Any]:
    """A row of records.jsonl: half of the latency is compute, a quarter waiting, a tenth each coding and scatter."""
    time_s = 100.0 if request == 0 else latency_s(what, label, request)
    found = Record(request, rank, time_s, compute_s=time_s / 2, code_s=time_s / 10, waited_s=time_s / 4)
    found.scatter_s, found.gather_s = time_s / 10, time_s / 50
    found.sent_bytes, found.scatter_bytes, found.gather_bytes = SENT_BYTES[label], 300 * (rank == 0), 70 * rank
    found.wire_bytes = SENT_BYTES[label] + 1000 + request
    common = {"host": ("h1", what.host)[rank], "method": label.split()[0], "label": label, "warmup": request == 0}
    near = {"max_abs_error": 1e-6, "cosine": COSINE[label], "top1_agreement": True, "kl": None}
    return {**found.row(), **common, "fidelity": near if rank == 0 else None}


def timeline(what: Made, label: str, request: int, rank: int) -> dict[str, Any]:
    """A row of timeline.jsonl: of every layer compute, coding, sending and waiting in turn, between both ends."""
    time_s = latency_s(what, label, request)
    part = time_s / (4 * LAYERS + 2)
    stages = [("scatter", "scatter", None)]
    for layer in range(LAYERS):
        stages += [("compute", "attention", layer), ("code", "encode", layer), ("send", "send", layer),
                   ("wait", "wait", layer)]  # fmt: skip
    stages.append(("gather", "gather", None))
    spans = [[*stage, index * part, part] for index, stage in enumerate(stages)]
    return {
        "label": label, "request": request, "rank": rank, "host": ("h1", what.host)[rank], "warmup": request == 0,
        "began_s": 1000.0 + 10 * request + 0.002 * rank, "spans": spans,
    }  # fmt: skip

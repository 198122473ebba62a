"""Records of runs -> frames of what was measured. Pure.

requests: a row per measured request that all devices reported: setting, run, method, label, request, latency_s,
    payload_bytes, formula_bytes, wire_bytes (sums over devices; NaN: no formula, no interface), what was found of its
    fidelity, lost_tokens of due_tokens (sums over devices; NaN: nothing could be lost), its score, see `testbed.here`:
    metric, this, single, and where tokens were generated new_tokens (how many), ttft_s, token_s.
devices: a row per such request and device: setting, run, label, request, rank, host, the seconds of `PARTS` and rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from testbed.store import RunData
from testbed.summary import good_requests, world_of

PARTS = {
    "compute_s": "compute",
    "code_s": "coding",
    "waited_s": "waiting",
    "scatter_s": "scatter",
    "gather_s": "gather",
}
BYTES = ("payload_bytes", "formula_bytes", "wire_bytes", "ends_bytes")
SCORE = ("metric", "input", "this", "single")
LOST = ("lost_tokens", "due_tokens")
FIDELITY = {"max_abs_error": "max", "cosine": "min", "top1_agreement": "mean", "kl": "max", "token_agreement": "mean"}
SPOKEN = ("ttft_s", "token_s")
REQUESTS = [
    "setting",
    "run",
    "method",
    "label",
    "request",
    "latency_s",
    *BYTES,
    *FIDELITY,
    *LOST,
    *SCORE,
    "new_tokens",
    *SPOKEN,
]
DEVICES = ["setting", "run", "label", "request", "rank", "host", *PARTS, "rest_s"]


def measured(runs: Iterable[tuple[str, int, RunData]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Frames of requests and of devices. runs: each with its letter and setting."""
    requests: list[dict[str, Any]] = []
    devices: list[dict[str, Any]] = []
    for letter, setting, run in runs:
        source = run.topology["run"].get("source")
        for method in run.methods:
            rows = [row for row in run.records if row["label"] == method["label"]]
            common = {"setting": setting, "run": letter, "method": method["method"], "label": method["label"]}
            for request in good_requests(rows, world_of(method, rows), source):
                if not request[0]["warmup"]:
                    home = next(row for row in request if row["host"] == source)
                    requests.append({**common, **_request(request, home, method.get("payload_formula"))})
                    devices += [{**common, **_device(row)} for row in request]
    return pd.DataFrame(requests, columns=REQUESTS), pd.DataFrame(devices, columns=DEVICES)


def _request(rows: Sequence[Mapping[str, Any]], home: Mapping[str, Any], formula: Any) -> dict[str, Any]:
    wire = [row["wire_bytes"] for row in rows]
    found = home.get("fidelity") or {}
    return {
        "request": home["request"],
        "latency_s": float(home["latency_s"]),
        "payload_bytes": sum(row["sent_bytes"] for row in rows),
        "formula_bytes": None if formula is None else sum(formula),
        "wire_bytes": None if None in wire else sum(wire),
        "ends_bytes": sum(row["scatter_bytes"] + row["gather_bytes"] for row in rows),
        **{key: None if found.get(key) is None else float(found[key]) for key in FIDELITY},
        **{key: None if home["dropped"] is None else sum(row[key] for row in rows) for key in LOST},
        **{key: (home.get("score") or {}).get(key) for key in SCORE},
        "new_tokens": None if home["generated"] is None else len(home["generated"]),
        **{key: home[key] for key in SPOKEN},
    }


def _device(row: Mapping[str, Any]) -> dict[str, Any]:
    parts = {key: float(row[key]) for key in PARTS}
    rest = max(0.0, row["latency_s"] - sum(parts.values()))
    return {"request": row["request"], "rank": row["rank"], "host": row["host"], **parts, "rest_s": rest}

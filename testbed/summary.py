"""records.jsonl and methods.json -> summary.json, the contract that other programs read. Pure.

One entry per method. Times in seconds, sizes in bytes, each a median over the measured requests (warm-up rows stay in
records.jsonl and are counted in `warmups`):

latency_s: {"n", "median", "p95", "p99", "mean", "min", "ci95": [lo, hi], "mean_ci95": [lo, hi]}; p95 is null under 20
    requests and p99 under 500, where they would be the maximum by another name, and the intervals (ci95 is of the
    median) are [null, null] under 3.
latency_s, gather_s: of the source device, on its clock; gather_s from the first byte of a result to the whole result.
compute_s, code_s, exchange_wait_s, scatter_s: of the critical device, that is the largest over ranks in each request
    (scatter_s: from the first byte of its input to the last). They are medians of maxima, so they need not add up to
    the latency; the rows of one device in records.jsonl do.
payload_bytes, messages, wire_bytes: per rank and request: exchanges between layers; frames of them; growth of the
    interface counters (null per rank without an interface of its own, where nothing crosses a network card).
speedup_over_single: median of single / this median, null without a good single.
speedup: the same request by request: {"ratio", "ci95": [lo, hi], "n"}, the geometric mean of single / this over the n
    requests that both have measured, with its paired bootstrap interval; the figure of the tables.
late_s: where compute is replayed, by how much stages ended later than due: [median, most], null elsewhere.
compared: whether results were compared with single's at all; where compute is replayed there is none.
fidelity: against single on the same input: largest max_abs_error, smallest cosine, share of equal top-1, largest kl
    over the measured requests; null where it does not apply or was not finite.
lost: where codes travel as datagrams: {"tokens", "due", "share", "datagrams": {why: how many}}, see `testbed.lost`;
    null elsewhere.
generation: null where nothing was generated, else {"tokens", "greedy", "ttft_s", "token_s", "token_bytes",
    "kept_bytes", "kept_formula", "full_bytes", "token_agreement"}: how many tokens followed each prompt; from the
    request until the source knew the first of them, and the mean from one to the next within a request, both over
    requests as latency_s is (null figures of one token, and of a failed method); bytes of ids sent to the source, per
    rank; memory of what the device that generated held of all tokens in the end, what its formula says, and what one
    device alone would hold; mean share of the tokens of a request that equal single's, place by place.
task: how good the model is at what it is for: {"metric": "top1", "perplexity" or "cosine", "single": of the model on
    one device, "this": as this method computes it, "n": held-out inputs}, measured when the model was prepared, not in
    this run; null for a model that was not, and where the method was not measured on so many devices with such tokens.
here: what the outputs of this very run are worth at that: {"metric", "value", "ci95", "single", "paired", "n"}, see
    `testbed.here`; null where the right answers to the requests are not known.

network: {"verdict", "reasons"}, see `testbed.evidence`: only a run whose verdict is "ok" is a result as declared, and
    "degraded" says how far from it. network of a method: what was seen while its requests ran.
compute: "real", or "replayed": devices waited the times of `profile` (its name, else null) and sent real bytes.
control: what Ray cost beside the links: {"nodes", "ray_up_s", "memory_bytes", "bytes_per_s"}, null where it never ran.

A request counts when every device reported it without error. A failed method keeps what its good requests showed,
except latency_s and the speedups, which are null: it did not do what was asked.

schema_version rises when a key goes or changes what it means, not when one is added: readers pass over what they do not
know. `testbed.store.load` reads every version up to its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from testbed import evidence
from testbed.here import here
from testbed.lost import lost
from testbed.statistics import median, paired_ratio, spread
from testbed.store import SCHEMA_VERSION, RunData

Row = Mapping[str, Any]
Request = list[Row]  # its rows in rank order


def summary(run: RunData) -> dict[str, Any]:
    """Content of summary.json, see the head of this file."""
    source = run.topology["run"].get("source")
    rows = {method["label"]: [r for r in run.records if r["label"] == method["label"]] for method in run.methods}
    methods = [_method(method, rows[method["label"]], source) for method in run.methods]
    single = next((m["latency_s"]["median"] for m in methods if m["method"] == "single"), None)
    alone = next((latencies(run, method["label"]) for method in run.methods if method["method"] == "single"), {})
    for method in methods:
        own = method["latency_s"]["median"]
        method["speedup_over_single"] = single / own if single and own else None
        method["speedup"] = paired_ratio(alone, latencies(run, method["label"]))
        method["network"] = evidence.method_verdict(run, method["label"])
    return {
        "schema_version": SCHEMA_VERSION,
        "name": run.topology["name"],
        "untrained": run.topology["run"].get("weights") == "random",
        "compute": run.manifest.get("compute", "real"),
        "profile": (run.manifest.get("profile") or {}).get("name"),
        "network": evidence.network(run),
        "control": run.control,
        "methods": methods,
    }


def good_requests(rows: Sequence[Row], world: int, source: str | None) -> list[Request]:
    """Requests of one method that all `world` ranks reported without error, in order, warm-up included."""
    requests: dict[int, dict[int, Row]] = {}
    for row in rows:
        requests.setdefault(row["request"], {})[row["rank"]] = row
    complete = [[ranks[rank] for rank in sorted(ranks)] for _, ranks in sorted(requests.items()) if len(ranks) == world]
    return [rows for rows in complete if not any(row.get("error") for row in rows) and _source(rows, source)]


def latencies(run: RunData, label: str) -> dict[int, float]:
    """Request -> seconds on the source device, of the measured requests of a method; none of one that failed."""
    method = next((one for one in run.methods if one["label"] == label), None)
    if method is None or method["status"] != "ok":
        return {}
    source = run.topology["run"].get("source")
    rows = [row for row in run.records if row["label"] == label]
    requests = good_requests(rows, world_of(method, rows), source)
    home = [row for request in requests if not request[0]["warmup"] and (row := _source(request, source))]
    return {row["request"]: row["latency_s"] for row in home}


def world_of(method: Row, rows: Sequence[Row]) -> int:
    """Number of devices of a method: by its byte formula, else by the ranks that reported."""
    formula = method.get("payload_formula")
    return len(formula) if formula else max((row["rank"] for row in rows), default=-1) + 1


def _method(method: Row, rows: Sequence[Row], source: str | None) -> dict[str, Any]:
    """One entry of the summary, without its speedup."""
    requests = good_requests(rows, world_of(method, rows), source)
    measured = [request for request in requests if not request[0]["warmup"]]
    home = [row for request in measured if (row := _source(request, source))]
    ok = method["status"] == "ok"
    formula = method.get("payload_formula")
    return {
        **{
            key: method.get(key)
            for key in ("method", "label", "options", "status", "error", "failed_host", "failed_by")
        },
        "equals_single": bool(method.get("equals_single")),
        "requests": len(measured),
        "warmups": len(requests) - len(measured),
        "latency_s": spread([row["latency_s"] for row in home] if ok else []),
        "compute_s": _critical(measured, "compute_s"),
        "code_s": _critical(measured, "code_s"),
        "exchange_wait_s": _critical(measured, "waited_s"),
        "scatter_s": _critical(measured, "scatter_s"),
        "gather_s": median([row["gather_s"] for row in home]),
        "payload_bytes": _per_rank(measured, "sent_bytes", max),
        "payload_formula": formula,
        "payload_matches_formula": _matches(requests, formula),
        "scatter_bytes": _per_rank(measured, "scatter_bytes", max),
        "gather_bytes": _per_rank(measured, "gather_bytes", max),
        "wire_bytes": _per_rank(measured, "wire_bytes", _middle),
        "messages": _per_rank(measured, "messages", max),
        "peak_memory_bytes": _per_rank(measured, "peak_memory_bytes", max),
        "late_s": _late([row["late_s"] for request in measured for row in request if row["late_s"]]),
        "speedup_over_single": None,
        "compared": any(row.get("fidelity") for row in home),
        "generation": _generation(method.get("generation"), measured, home, ok),
        "fidelity": _fidelity([row["fidelity"] for row in home if row.get("fidelity")]),
        "lost": lost([row for request in measured for row in request]),
        "task": method.get("task"),
        "here": here(home),
    }


def _generation(
    promised: Row | None, requests: Sequence[Request], home: Sequence[Row], ok: bool
) -> dict[str, Any] | None:
    """See the head of this file; home: rows of the source."""
    if promised is None:
        return None
    times = {
        key: spread([row[key] for row in home if row[key] is not None] if ok else []) for key in ("ttft_s", "token_s")
    }
    shares = [row["fidelity"]["token_agreement"] for row in home if row.get("fidelity")]
    kept = [row["kept_bytes"] for request in requests for row in request if row["kept_bytes"] is not None]
    return {
        **{key: promised[key] for key in ("tokens", "greedy", "full_bytes")},
        **times,
        "token_bytes": _per_rank(requests, "token_bytes", max),
        "kept_bytes": max(kept, default=None),
        "kept_formula": promised["kept_bytes"],
        "token_agreement": sum(shares) / len(shares) if shares else None,
    }


def _late(found: Sequence[Sequence[float]]) -> list[float] | None:
    """[median of medians, the most] over devices and requests."""
    return [median([middle for middle, _ in found]) or 0.0, max(most for _, most in found)] if found else None


def _source(request: Request, source: str | None) -> Row | None:
    """The row of the device where the request entered."""
    return next((row for row in request if row["host"] == source), None)


def _critical(requests: Sequence[Request], key: str) -> float | None:
    """Median over requests of the largest value over ranks."""
    return median([max(row[key] for row in request) for request in requests])


def _per_rank(requests: Sequence[Request], key: str, one: Callable[[list[int]], int]) -> list[int | None]:
    """`one` value for each rank out of those of its requests, None where any of them is."""
    ranks = zip(*([row[key] for row in request] for request in requests), strict=True)
    return [None if None in values else one(list(values)) for values in ranks]


def _middle(values: list[int]) -> int:
    """Median of byte counts, a whole number."""
    return round(median(values) or 0)


def _matches(requests: Sequence[Request], formula: Sequence[int] | None) -> bool | None:
    """Whether every good request, warm-up too, sent on every rank what the formula says. None: nothing to compare."""
    if not requests or formula is None:
        return None
    return all([row["sent_bytes"] for row in request] == list(formula) for request in requests)


def _fidelity(rows: Sequence[Row]) -> dict[str, float | None]:
    """The worst over requests, see the head of this file."""

    def over(key: str, worst: Callable[[list[float]], float]) -> float | None:
        values = [row.get(key) for row in rows]
        known = [float(value) for value in values if value is not None]
        return worst(known) if known and len(known) == len(values) else None

    return {
        "max_abs_error": over("max_abs_error", max),
        "cosine": over("cosine", min),
        "top1_agreement": over("top1_agreement", lambda hits: sum(hits) / len(hits)),
        "kl": over("kl", max),
    }

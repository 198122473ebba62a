"""When a note of `testbed.notes` applies: for each code, what is to be filled into its texts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from testbed.differences import replayed
from testbed.quantities import counted
from testbed.statistics import far_outside
from testbed.store import RunData
from testbed.summary import good_requests, latencies, world_of
from testbed.tables import duration
from testbed.truth import EXACT_WITHIN, leaks
from testbed.units import show_duration, show_fraction
from testbed.withheld import MUCH

WIDE_INTERVAL = 0.10
FEW_REQUESTS = 6
HELD_BACK_S = 0.1

Check = Callable[[Mapping[str, Any], RunData], Iterator[Mapping[str, Any]]]

CHANGES: dict[str, str] = {
    "block": "decoupled blocks are another function",
    "astra": "tokens arrive as codes",
    "prism": "tokens arrive as means of their segments",
    "topk": "only the largest features of tokens arrive",
}


def _labels(summary: Mapping[str, Any], wanted: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Labels of the good methods for which `wanted` holds."""
    return [m["label"] for m in summary["methods"] if m["status"] == "ok" and wanted(m)]


def _listed(
    summary: Mapping[str, Any], wanted: Callable[[Mapping[str, Any]], bool], **values: Any
) -> Iterator[dict[str, Any]]:
    """One note for all good methods for which `wanted` holds, none without a method."""
    labels = _labels(summary, wanted)
    if labels:
        every = len(labels) > 2 and labels == _labels(summary, lambda _: True)
        yield {"labels": "all methods" if every else ", ".join(labels), **values}


def _failed(summary: Mapping[str, Any], by: str | None) -> dict[str, list[str]]:
    """Hosts that failed for that reason (None: one of their own) -> labels of the methods that it cost."""
    failed: dict[str, list[str]] = {}
    for m in summary["methods"]:
        if m["status"] == "failed" and m["failed_host"] and m.get("failed_by") == by:
            failed.setdefault(m["failed_host"], []).append(m["label"])
    return failed


def _host_failed(summary: Mapping[str, Any], _run: RunData) -> Iterator[dict[str, Any]]:
    for hosts, labels in _failed(summary, None).items():
        logs = ", ".join(f"{host}.log" for host in hosts.split(", "))
        yield {"host": hosts, "labels": ", ".join(labels), "logs": logs}


def _memory(summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    declared = run.topology.get("hosts") or {}
    for hosts, labels in _failed(summary, "memory").items():
        limits = dict.fromkeys(str((declared.get(name) or {}).get("memory")) for name in hosts.split(", "))
        yield {"host": hosts, "labels": ", ".join(labels), "limit": " or ".join(limits)}


def _not_reached(_summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    """Events of the file -> labels of the methods that were over before."""
    missed: dict[str, list[str]] = {}
    for method in run.methods:
        for event in method.get("not_reached") or ():
            missed.setdefault(event.replace(":", "", 1), []).append(method["label"])
    if missed:
        yield {"events": "; ".join(f"{event} ({', '.join(labels)})" for event, labels in missed.items())}


def _relay_warned(_summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    if warnings := run.manifest.get("shaper_warnings"):
        yield {"warnings": "; ".join(warnings)}


def _withheld(_summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    most: dict[str, float] = {}  # several runs have a row each of a method
    for row in run.watch:
        most[row["label"]] = max(most.get(row["label"], 0.0), row.get("withheld", 0.0))
    much = [f"{label} {show_fraction(round(share, 3))}" for label, share in most.items() if share >= MUCH]
    if much:
        yield {"shares": ", ".join(much)}


def _forwarding(_summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    hosts = run.topology.get("hosts") or {}
    between = {hop.partition(" -> ")[0] for row in run.links for hop in row.get("links", ())[1:]}
    if found := [name for name in hosts if name in between]:
        yield {"hosts": ", ".join(found)}


def _shared_cores(_summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    hosts, cores = run.topology.get("hosts") or {}, run.manifest.get("machine", {}).get("cores")
    if cores is None or len(hosts) <= cores or replayed(run):  # who waits needs no core
        return
    shares = [share for host in hosts.values() if (share := (host or {}).get("cpu")) is not None]
    if len(shares) == len(hosts) and sum(shares) <= cores:
        cause = f"their CPU shares ({sum(shares):.3g} in all) fit, but two may want one core at once"
        advice = "read compute and waiting together"
    else:
        cause = "they take turns, so compute holds waiting for a core, and speedups are smaller than on boards"
        advice = "give each host a cpu share that fits, or use a machine with more cores"
    yield {"devices": len(hosts), "cores": f"{cores} core{'s' * (cores > 1)}", "cause": cause, "advice": advice}


def _cpu_share(_summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    total: dict[str, float] = {}
    for row in run.watch:
        for host, seconds in (row.get("throttled_s") or {}).items():
            total[host] = total.get(host, 0.0) + seconds
    held = {host: s for host, s in total.items() if s >= HELD_BACK_S}
    if held:
        hosts = run.topology.get("hosts") or {}
        shares = sorted({f"{(hosts.get(name) or {}).get('cpu')}" for name in held})
        words = ", ".join(f"{name} {show_duration(round(s, 1))}" for name, s in held.items())
        yield {"hosts": words, "declared": ", ".join(shares)}


def _changes_function(summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    if replayed(run):  # no result was computed
        return
    other = "the method does not promise the same function"

    def untuned(m: Mapping[str, Any]) -> bool:
        """Of one that was prepared for it the report has the accuracy; on one device nothing arrives changed."""
        judged, alone = m.get("task") or (m["method"] == "astra" and m.get("here")), len(m["payload_bytes"]) == 1
        return not (m["equals_single"] or judged or alone)

    changing = [m for m in summary["methods"] if m["status"] == "ok" and untuned(m)]
    cause = ", ".join(dict.fromkeys(CHANGES.get(m["method"], other) for m in changing))
    yield from _listed(summary, untuned, cause=cause)


def _late_codes(summary: Mapping[str, Any], _run: RunData) -> Iterator[dict[str, Any]]:
    late = [(m["label"], count) for m in summary["methods"] if m["lost"] and (count := m["lost"]["datagrams"]["late"])]
    if late:
        yield {"late": ", ".join(f"{counted(count, 'datagram')} of {label}" for label, count in late)}


def _inexact(summary: Mapping[str, Any], _run: RunData) -> Iterator[dict[str, Any]]:
    def far(m: Mapping[str, Any]) -> bool:
        return m["equals_single"] and (m["fidelity"]["max_abs_error"] or 0.0) > EXACT_WITHIN

    # Whatever their status: a run calls such a method failed, and this says what to do about it.
    if found := [m for m in summary["methods"] if far(m)]:
        error = max(m["fidelity"]["max_abs_error"] for m in found)
        yield {"labels": ", ".join(m["label"] for m in found), "error": error}


def _not_finite(summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    if replayed(run):
        return
    yield from _listed(summary, lambda m: m["fidelity"]["max_abs_error"] is None)


def _payload(summary: Mapping[str, Any], _run: RunData) -> Iterator[dict[str, Any]]:
    for m in summary["methods"]:
        if m["payload_matches_formula"] is False:
            yield {"label": m["label"], "sent": m["payload_bytes"], "formula": m["payload_formula"]}


def _leak(_summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    leaking = []
    for method in run.methods:
        rows = [row for row in run.records if row["label"] == method["label"]]
        requests = good_requests(rows, world_of(method, rows), run.topology["run"].get("source"))
        if any(leaks(row) for request in requests for row in request):
            leaking.append(method["label"])
    if leaking:
        yield {"labels": ", ".join(leaking)}


def _budget(summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    asked = run.topology["run"].get("repeats", 0)
    short = [m for m in summary["methods"] if m["status"] == "ok" and m["requests"] < asked]
    if short:
        few = any(m["requests"] < FEW_REQUESTS for m in short)
        yield {
            "repeats": asked,
            "counts": ", ".join(f"{m['label']} {m['requests']}" for m in short),
            "budget": run.topology["run"].get("budget"),
            "few": ", and under 6 requests no interval covers 95 %" * few,
        }


def _few(summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    """Few because few were asked for; where the budget ended first, `_budget` says so."""
    asked = run.topology["run"].get("repeats", 0)
    if asked < FEW_REQUESTS:
        yield from _listed(summary, lambda m: m["requests"] >= asked, requests=asked)


def _wide(summary: Mapping[str, Any], _run: RunData) -> Iterator[dict[str, Any]]:
    """Of few requests every interval is wide, and another note says what to do."""

    def wide(m: Mapping[str, Any]) -> bool:
        low, high = m["latency_s"]["ci95"]
        return m["requests"] >= FEW_REQUESTS and bool(high - low > WIDE_INTERVAL * m["latency_s"]["median"])

    yield from _listed(summary, wide)


def _far_outside(summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    """Of few requests the quartiles tell nothing."""
    words = []
    for m in summary["methods"]:
        seconds = latencies(run, m["label"])
        far = far_outside(seconds) if len(seconds) >= FEW_REQUESTS else []
        if far:
            worst = max(far, key=lambda request: abs(seconds[request] - m["latency_s"]["median"]))
            words.append(
                f"{len(far)} of {len(seconds)} of {m['label']} ({duration(seconds[worst])} "
                f"against a median of {duration(m['latency_s']['median'])})"
            )
    if words:
        yield {"outside": "; ".join(words)}


def _slower(summary: Mapping[str, Any], _run: RunData) -> Iterator[dict[str, Any]]:
    causes: dict[str, list[str]] = {}
    for m in summary["methods"]:
        if m.get("generation"):  # its two times are told apart, and the source's waiting is for tokens
            continue
        if m["speedup_over_single"] is not None and m["speedup_over_single"] < 1:
            causes.setdefault(_dominating(m), []).append(m["label"])
    if causes:
        yield {"labels": "; ".join(f"by {cause}: {', '.join(labels)}" for cause, labels in causes.items())}


def _dominating(m: Mapping[str, Any]) -> str:
    """What a method slower than single spends most on; on computing only if sharing it did not make it less."""
    single_s = m["latency_s"]["median"] * m["speedup_over_single"]
    costs = {
        "computing": m["compute_s"] if m["compute_s"] >= single_s else 0.0,
        "waiting for data": m["exchange_wait_s"],
        "distribution": m["scatter_s"] + m["gather_s"],
        "encoding": m["code_s"],
    }
    return max(costs, key=lambda name: costs[name])


def _no_single(summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    """A single that failed has its reason in the report."""
    declared = [m if isinstance(m, str) else next(iter(m), "") for m in run.topology["run"].get("methods") or ()]
    if "single" not in [*declared, *(m["method"] for m in summary["methods"])]:
        yield {}


def _when(holds: Callable[[RunData], object]) -> Check:
    """A check that has nothing to tell but whether it holds."""
    return lambda _summary, run: iter([{}] if holds(run) else [])


def _cut_off(_summary: Mapping[str, Any], run: RunData) -> Iterator[dict[str, Any]]:
    for words in run.skipped:
        yield {"skipped": words}


CHECKS: dict[str, Check] = {
    "host-failed": _host_failed,
    "memory": _memory,
    "not-reached": _not_reached,
    "relay-warned": _relay_warned,
    "withheld": _withheld,
    "forwarding": _forwarding,
    "shared-cores": _shared_cores,
    "cpu-share": _cpu_share,
    "changes-function": _changes_function,
    "late-codes": _late_codes,
    "inexact": _inexact,
    "not-finite": _not_finite,
    "payload": _payload,
    "leak": _leak,
    "budget": _budget,
    "few": _few,
    "far-outside": _far_outside,
    "wide": _wide,
    "slower": _slower,
    "no-single": _no_single,
    "byte-tokens": _when(lambda run: run.manifest.get("byte_tokens")),
    "samples-seen": _when(lambda run: run.manifest.get("samples_seen")),
    "local": _when(lambda run: run.topology.get("backend") == "local"),
    "dirty": _when(lambda run: (run.manifest.get("git") or {}).get("dirty")),
    "cut-off": _cut_off,
}

"""What a reader of the table should know, from a fixed list: what was seen, the likely cause, what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from testbed.store import RunData
from testbed.summary import good_requests, world_of
from testbed.units import show_duration

EXACT_WITHIN = 1e-4
WIDE_INTERVAL = 0.10
FEW_REQUESTS = 6

Facts = Mapping[str, Any]
Check = Callable[[Mapping[str, Any], RunData, Facts], Iterator[Mapping[str, Any]]]

TEXTS: dict[str, tuple[str, str, str]] = {
    "untrained": (
        "the weights are random",
        "the file says weights: random",
        "times, bytes and errors against single hold; for an accuracy of anything use weights: pretrained",
    ),
    "shared-cores": (
        "{devices} devices share {cores}",
        "{cause}",
        "read compute and waiting together; give each host a cpu share that fits, or use a machine with more cores",
    ),
    "cpu-share": (
        "{hosts} held back by their CPU share",
        "the declared cpu ({declared}) is less than the model asks for",
        "nothing if this is the device you mean to have; else raise cpu, or leave it out for no limit",
    ),
    "changes-function": (
        "{labels}: the output is not that of single",
        "{cause}",
        "read the latency together with the fidelity column, and never the latency alone",
    ),
    "inexact": (
        "{labels}: further from single than 1e-4 (at most {error:.2g})",
        "an error in the method, or an activation so large that rounding alone does it",
        "do not use these times before it is understood; compare the devices' logs",
    ),
    "not-finite": (
        "{labels}: the output held numbers that are not finite, or was not compared",
        "overflow in the method, or weights that are damaged",
        "check the same model with single alone; do not use these times",
    ),
    "payload": (
        "{label}: payload is not what the formula says ({sent} instead of {formula} bytes per device)",
        "the method sends more, or less, than its description",
        "do not compare its bytes with published figures before one of them is corrected",
    ),
    "leak": (
        "{labels}: interface counters do not cover the payload",
        "bytes went over loopback, a wrong address or shared memory instead of the shaped link",
        "these latencies are too good: check the addresses in the logs, and that every host has its own namespace",
    ),
    "budget": (
        "{labels}: fewer requests than the {repeats} asked for",
        "a request is slow, and the budget of {budget} per method ended first",
        "raise run.budget for a narrower interval",
    ),
    "few": (
        "{labels}: {requests} requests give no interval, or one that covers less than 95 %",
        "under 6 requests no interval of the median can promise more than its range",
        "raise run.repeats, and run.budget with it, before claiming a difference",
    ),
    "wide": (
        "{labels}: the interval is wider than a tenth of the median",
        "other work on this machine, too few requests, or retransmissions",
        "raise run.repeats, and close what else runs here",
    ),
    "slower": (
        "{labels}: slower than single",
        "{cause}",
        "a faster link, fewer or smaller exchanges, or one device",
    ),
    "no-single": (
        "no speedup is shown",
        "the run has no good single to compare with",
        "add single to run.methods",
    ),
    "byte-tokens": (
        "token ids are the bytes of the text",
        "the checkpoint has no tokenizer, or none that is on this machine",
        "times and bytes hold; for a text that the model understands use a folder with its tokenizer",
    ),
    "local": (
        "nothing was shaped",
        "backend: local runs plain processes on loopback",
        "use it to try things; for times on the declared links use backend: mininet",
    ),
    "dirty": (
        "the code was changed after its last commit",
        "git reports changes that are not committed",
        "commit before a run whose figures are to be repeated",
    ),
    "cut-off": (
        "{skipped}",
        "the run was killed while it wrote",
        "the other rows are whole; run again for the missing request",
    ),
}


@dataclass(frozen=True)
class Note:
    """One entry: its code in `TEXTS`, what was seen, the likely cause, what to do."""

    code: str
    seen: str
    cause: str
    advice: str


def notes(summary: Mapping[str, Any], run: RunData, facts: Facts | None = None) -> list[Note]:
    """The notes that apply, in the order of `TEXTS`.

    facts: what else is known, in place of what the folder says: "throttled_s" {host: seconds held back by its CPU
    share, over all methods}, "byte_tokens" whether token ids are bytes.
    """
    facts = {"byte_tokens": run.manifest.get("byte_tokens"), "throttled_s": _throttled_s(run), **(facts or {})}
    found = []
    for code, check in CHECKS.items():
        seen, cause, advice = TEXTS[code]
        found += [Note(code, *(t.format(**v) for t in (seen, cause, advice))) for v in check(summary, run, facts)]
    return found


def _throttled_s(run: RunData) -> dict[str, float]:
    """Seconds that each host was held back by its CPU share, over all methods."""
    total: dict[str, float] = {}
    for method in run.methods:
        for host, seconds in (method.get("throttled_s") or {}).items():
            total[host] = total.get(host, 0.0) + seconds
    return total


def _labels(summary: Mapping[str, Any], wanted: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Labels of the good methods for which `wanted` holds."""
    return [m["label"] for m in summary["methods"] if m["status"] == "ok" and wanted(m)]


def _listed(labels: list[str], **values: Any) -> Iterator[dict[str, Any]]:
    """One note for all these methods, none without a method."""
    if labels:
        yield {"labels": ", ".join(labels), **values}


def _untrained(summary: Mapping[str, Any], _run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    if summary["untrained"]:
        yield {}


def _shared_cores(_summary: Mapping[str, Any], run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    hosts, cores = run.topology.get("hosts") or {}, run.manifest.get("machine", {}).get("cores")
    if cores is None or len(hosts) <= cores:
        return
    shares = [share for host in hosts.values() if (share := (host or {}).get("cpu")) is not None]
    if len(shares) == len(hosts) and sum(shares) <= cores:
        cause = f"their CPU shares ({sum(shares):.3g} cores in all) fit, but two may still want the same core at once"
    else:
        cause = "they take turns, so that compute holds waiting for a core, and speedups are smaller than on boards"
    yield {"devices": len(hosts), "cores": f"{cores} core{'s' * (cores > 1)}", "cause": cause}


def _cpu_share(_summary: Mapping[str, Any], run: RunData, facts: Facts) -> Iterator[dict[str, Any]]:
    held = {host: s for host, s in (facts.get("throttled_s") or {}).items() if s and s >= 0.1}
    if held:
        hosts = run.topology.get("hosts") or {}
        shares = sorted({f"{(hosts.get(name) or {}).get('cpu')}" for name in held})
        words = ", ".join(f"{name} for {show_duration(round(s, 1))}" for name, s in held.items())
        yield {"hosts": words, "declared": ", ".join(shares)}


def _changes_function(summary: Mapping[str, Any], run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    causes = {
        "block": "decoupled blocks compute another function than the model, and these weights were not trained for it",
        "astra": "other devices' tokens arrive as codes; codebooks come from k-means, the model was not tuned for them",
    }
    other = "the method does not promise the same function"
    for method in {m["method"]: None for m in summary["methods"] if not m["equals_single"]}:
        labels = _labels(summary, lambda m, method=method: m["method"] == method)  # type: ignore[misc]
        yield from _listed(labels, cause=causes.get(method, other))


def _inexact(summary: Mapping[str, Any], _run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    def far(m: Mapping[str, Any]) -> bool:
        return m["equals_single"] and (m["fidelity"]["max_abs_error"] or 0.0) > EXACT_WITHIN

    errors = [m["fidelity"]["max_abs_error"] for m in summary["methods"] if far(m)]
    yield from _listed(_labels(summary, far), error=max(errors, default=0.0))


def _not_finite(summary: Mapping[str, Any], _run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    yield from _listed(_labels(summary, lambda m: m["fidelity"]["max_abs_error"] is None))


def _payload(summary: Mapping[str, Any], _run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    for m in summary["methods"]:
        if m["payload_matches_formula"] is False:
            yield {"label": m["label"], "sent": m["payload_bytes"], "formula": m["payload_formula"]}


def _leak(summary: Mapping[str, Any], run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    leaking = []
    for method in run.methods:
        rows = [row for row in run.records if row["label"] == method["label"]]
        requests = good_requests(rows, world_of(method, rows), run.topology["run"].get("source"))
        if any((r["wire_bytes"] or 0) < r["sent_bytes"] for q in requests for r in q if r["wire_bytes"] is not None):
            leaking.append(method["label"])
    yield from _listed(leaking)


def _budget(summary: Mapping[str, Any], run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    asked = run.topology["run"].get("repeats", 0)
    budget = run.topology["run"].get("budget")
    yield from _listed(_labels(summary, lambda m: m["requests"] < asked), repeats=asked, budget=budget)


def _few(summary: Mapping[str, Any], _run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    def few(m: Mapping[str, Any]) -> bool:
        return bool(m["requests"] < FEW_REQUESTS)

    counts = sorted({m["requests"] for m in summary["methods"] if m["status"] == "ok" and few(m)})
    words = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else "".join(map(str, counts))
    yield from _listed(_labels(summary, few), requests=words)


def _wide(summary: Mapping[str, Any], _run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    def wide(m: Mapping[str, Any]) -> bool:
        low, high = m["latency_s"]["ci95"]
        return low is not None and high - low > WIDE_INTERVAL * m["latency_s"]["median"]

    yield from _listed(_labels(summary, wide))


def _slower(summary: Mapping[str, Any], _run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    def slower(m: Mapping[str, Any]) -> bool:
        return m["speedup_over_single"] is not None and m["speedup_over_single"] < 1

    def waits(m: Mapping[str, Any]) -> bool:
        return slower(m) and (m["exchange_wait_s"] or 0.0) > (m["compute_s"] or 0.0)

    cause = "waiting for the network takes longer than all computing"
    yield from _listed(_labels(summary, waits), cause=cause)
    cause = "distribution, return and messages cost more than the shared computing saves"
    yield from _listed(_labels(summary, lambda m: slower(m) and not waits(m)), cause=cause)


def _no_single(summary: Mapping[str, Any], _run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    if summary["methods"] and not _labels(summary, lambda m: m["method"] == "single" and m["requests"] > 0):
        yield {}


def _byte_tokens(_summary: Mapping[str, Any], _run: RunData, facts: Facts) -> Iterator[dict[str, Any]]:
    if facts.get("byte_tokens"):
        yield {}


def _local(_summary: Mapping[str, Any], run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    if run.topology.get("backend") == "local":
        yield {}


def _dirty(_summary: Mapping[str, Any], run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    if (run.manifest.get("git") or {}).get("dirty"):
        yield {}


def _cut_off(_summary: Mapping[str, Any], run: RunData, _facts: Facts) -> Iterator[dict[str, Any]]:
    for words in run.skipped:
        yield {"skipped": words}


CHECKS: dict[str, Check] = {
    "untrained": _untrained,
    "shared-cores": _shared_cores,
    "cpu-share": _cpu_share,
    "changes-function": _changes_function,
    "inexact": _inexact,
    "not-finite": _not_finite,
    "payload": _payload,
    "leak": _leak,
    "budget": _budget,
    "few": _few,
    "wide": _wide,
    "slower": _slower,
    "no-single": _no_single,
    "byte-tokens": _byte_tokens,
    "local": _local,
    "dirty": _dirty,
    "cut-off": _cut_off,
}

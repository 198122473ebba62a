"""What a reader of the table should know, from a fixed list: what was seen, the likely cause, what to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testbed.checks import CHECKS
from testbed.store import RunData

TEXTS: dict[str, tuple[str, str, str]] = {
    "host-failed": (
        "{host} ended or failed during {labels}",
        "its process died, was killed or reported an error",
        "read the end of {logs} in the run folder",
    ),
    "memory": (
        "{host} went over its memory of {limit} during {labels}",
        "the device and its Ray node need more than that, and the kernel ended the device",
        "raise the host's memory, take a smaller model, or cut it over more devices",
    ),
    "not-reached": (
        "not reached: {events}",
        "the requests ended before, so these results do not show what it does",
        "raise run.repeats and run.budget, or let it happen earlier",
    ),
    "relay-warned": (
        "the relay runs without what keeps it in time: {warnings}",
        "this machine does not let it",
        "run as root and outside of containers that forbid it; what it was late is in watch.json",
    ),
    "withheld": (
        "the hypervisor withheld a processor that had work, for so much of the time: {shares}",
        "this machine is a guest of one that is busy with others",
        "times are too long by what it withheld: run again when it is quieter",
    ),
    "forwarding": (
        "frames of other hosts go through {hosts}",
        "those have no other way, and hosts forward",
        "their bytes on wire count what they pass on, so a leak of their own bytes may go unseen there",
    ),
    "shared-cores": ("{devices} devices share {cores}", "{cause}", "{advice}"),
    "cpu-share": (
        "held back by the declared cpu ({declared}): {hosts}",
        "their CPU share at work",
        "nothing to do, if these are the devices you mean",
    ),
    "changes-function": (
        "{labels}: the output is not that of single",
        "{cause}, and these weights are not tuned for it",
        "read latency and fidelity together",
    ),
    "late-codes": (
        "codes came after they were waited for: {late}",
        "the deadline is shorter than devices are apart in a layer, or datagrams overtook each other",
        "raise `deadline`: tokens were masked out whose codes nothing had lost",
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
        "fewer requests than the {repeats} asked for: {counts}",
        "the budget of {budget} per method ended first{few}",
        "raise run.budget",
    ),
    "few": (
        "{labels}: {requests} requests give no interval, or one that covers under 95 %",
        "under 6 requests no interval of the median can promise more than its range",
        "raise run.repeats before claiming a difference",
    ),
    "far-outside": (
        "far from the other requests: {outside}",
        "something else on this machine, a retransmission, or an event of the file",
        "none is left out: read the median, which they hardly move, and look these up in records.jsonl",
    ),
    "wide": (
        "{labels}: the interval is wider than a tenth of the median",
        "other work on this machine, too few requests, or retransmissions",
        "raise run.repeats, and close what else runs here",
    ),
    "slower": (
        "slower than single {labels}",
        "that costs more than sharing the work saves",
        "try a faster link, fewer or smaller exchanges",
    ),
    "no-single": ("no speedup is shown", "single is not among run.methods", "add it"),
    "byte-tokens": (
        "token ids are the bytes of the text",
        "the checkpoint has no tokenizer, or none that is on this machine",
        "times and bytes hold; for a text that the model understands use a folder with its tokenizer",
    ),
    "local": (
        "nothing was shaped",
        "backend: local runs plain processes on loopback",
        "for times on the declared links use backend: mininet",
    ),
    "dirty": (
        "the code was changed after its last commit",
        "git says so",
        "commit before a run that is to be repeated",
    ),
    "samples-seen": (
        "some requests were among the inputs from which the codebooks come",
        "there are too few inputs for both",
        "give more of them: fidelity is flattered here",
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


def notes(summary: Mapping[str, Any], run: RunData) -> list[Note]:
    """The notes that apply, in the order of `TEXTS`."""
    found = []
    for code, check in CHECKS.items():
        seen, cause, advice = TEXTS[code]
        found += [Note(code, *(t.format(**v) for t in (seen, cause, advice))) for v in check(summary, run)]
    return found

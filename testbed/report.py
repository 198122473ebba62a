"""A run folder -> what the user sees: is the network the declared one, the table of methods, notes. Reads data only.

`testbed compare RUN` prints the report of a run that is over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from testbed import evidence, generated, here, linktable, lost, probe
from testbed.differences import computed, replayed
from testbed.notes import Note
from testbed.store import RunData
from testbed.tables import METRICS, NONE, digits, duration, metric, open_table, print_table, print_wrapped, size

CLOCK_NOISE_S = 1e-5  # under 10 us a row tells of the clock and of Python, not of a network
COMPUTE, WAITING, INPUT, SENT = "compute", "waiting", "input\nresult", "sent\non wire"
SPEEDUP = "vs single\n95 % CI"
REASONS = 4  # of a verdict: the others are in the run folder
NOT_JUDGED = 4  # lines; the others are in links.json
VERDICTS = {  # those that a reader must know of before the figures
    "wrong": ("NOT VALID, the network was not the declared one", "bold red"),
    "unverified": ("NOT VERIFIED", "bold yellow"),
    "degraded": ("DEGRADED, the network was not emulated exactly", "bold yellow"),
}
METHODS_GIVE_UP = (INPUT, SENT, COMPUTE, WAITING, SPEEDUP)  # never n, never what was asked for by run.generate
UNTRAINED = (
    "Untrained (random) weights: times, bytes and errors against single hold, but the "
    "results mean nothing; for an accuracy of anything use weights: pretrained."
)
LEGEND = (
    "input: handing it out, result: collecting it; sent: payload between layers of "
    "the device that sent most, on wire: all that left; -: none, or under 10 us"
)
SPEEDUP_LEGEND = "vs single: geometric mean over the same requests; n= where those are fewer"


def render(summary: Mapping[str, Any], run: RunData, notes: Sequence[Note], console: Console) -> None:
    """Print what a run found: untrained weights first, then links, methods and notes. Fits 80 columns."""
    _say_first(summary, run, console)
    if run.links:
        render_links(run.links, console)
        for line in not_judged(run.links):
            print_wrapped("", line, console)
    for line in evidence.lines(run):
        print_wrapped("", line, console)
    if run.links:
        console.print()
    print_verdict(summary["network"], console)
    print_table(methods_table(summary["methods"]), console, METHODS_GIVE_UP)
    console.print(Text(LEGEND, "dim"))
    console.print(Text(SPEEDUP_LEGEND, "dim"))
    for words in filter(None, (task_legend(summary["methods"]), generated.legend(summary["methods"]))):
        console.print(Text(words, "dim"))
    for words in filter(None, (line(summary["methods"]) for line in (generated.kept, here.line, lost.line, tails))):
        print_wrapped("", words, console)
    for line in reasons(summary["methods"]):
        console.print(Text(line, "red"))
    if notes:
        console.print()
    for note in notes:
        print_note(note, console)


def _say_first(summary: Mapping[str, Any], run: RunData, console: Console) -> None:
    """What the figures are not, before any is shown."""
    if summary["untrained"] and not replayed(run):
        console.print(Text(UNTRAINED, "bold yellow"))
    if replayed(run):
        print_wrapped("Compute ", f"{computed(run)}: devices waited those times and sent real bytes", console)
        late_s = [method["late_s"] for method in summary["methods"] if method["late_s"]]
        if late_s:
            middle, most = (duration(max(one[i] for one in late_s)) for i in (0, 1))
            print_wrapped(
                "        ", f"stages ended late by {middle} (median of the worst method), {most} at most", console
            )


def render_links(links: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the table of links and a line for each that is not as declared."""
    linktable.render_links(links, console)


def not_judged(links: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the probes could not tell, and why: at most NOT_JUDGED lines, and one that counts the others."""
    whole = [{"links": (), "not_judged": {}, **row} for row in links]
    before, after = ([row for row in whole if (row.get("when") == "after") is late] for late in (False, True))
    found = list(dict.fromkeys([*probe.not_judged(before), *probe.not_judged(after)]))
    rest = len(found) - NOT_JUDGED
    return found[:NOT_JUDGED] + [f"{rest} more not judged, see links.json"] * (rest > 0)


def print_verdict(network: Mapping[str, Any], console: Console, which: str = "") -> None:
    """Say it, with the numbers, when the network was not the declared one or nobody can tell."""
    if network["verdict"] not in VERDICTS:
        return
    title, style = VERDICTS[network["verdict"]]
    shown, more = network["reasons"][:REASONS], len(network["reasons"]) - REASONS
    words = "; ".join([*shown, *([f"and {more} more in the run folder"] if more > 0 else [])])
    print_wrapped(f"{which}{title}: ", words, console, style)


def methods_table(methods: Sequence[Mapping[str, Any]]) -> Table:
    """One row per method; a failed or skipped one says so in place of a latency, see `reasons`."""
    table = open_table("method", "n", "latency\n95 % CI", COMPUTE, WAITING, INPUT, SENT, SPEEDUP)
    table.add_column("fidelity", no_wrap=True)
    generates = any(method.get("generation") for method in methods)
    if generates:
        table.add_column(generated.COLUMN, justify="right", no_wrap=True)
    name = task_metric(methods)
    if name is not None:
        table.add_column(f"task\n{METRICS.get(name, name)}", justify="right", no_wrap=True)
    for method in methods:
        table.add_row(
            *cells(method), *([generated.times(method)] if generates else []), *([] if name is None else [task(method)])
        )
    return table


def reasons(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why methods did not end well: a line for those of the same reason."""
    labels: dict[str, list[str]] = {}
    for method in methods:
        if method["status"] != "ok":
            why = f"{method['status']}: {method['error'] or 'no reason was recorded'}"
            labels.setdefault(why, []).append(method["label"])
    return [f"{', '.join(names)} {why}" for why, names in labels.items()]


def print_note(note: Note, console: Console, which: str = "") -> None:
    """Print what was seen, its likely cause and what to do; `which` runs, where there are several."""
    title = f"Note{which and ' '}{which}: "
    cause, advice = (f"{words[0].upper()}{words[1:]}" for words in (note.cause, note.advice))
    print_wrapped(title, f"{note.seen}. {cause}. {advice}.", console)


def latency(method: Mapping[str, Any]) -> str:
    """Median, below it the interval: "61.5 ms" over "61.2-61.9 ms"."""
    middle, (low, high) = method["latency_s"]["median"], method["latency_s"]["ci95"]
    first = duration(middle)
    if low is None:
        return first
    unit = duration(high).split()[1]
    scale = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    return f"{first}\n{digits(low * scale):g}-{digits(high * scale):g} {unit}"


def against(speedup: float | None) -> str:
    """How many times as fast: "3.41x", "0.06x", "0.00049x", "2050x"."""
    if speedup is None:
        return NONE
    return (
        f"{speedup:.2f}x" if 0.01 <= speedup < 10 else f"{speedup:.2g}x" if speedup < 1 else f"{digits(speedup):.9g}x"
    )


def speedup(ratio: Mapping[str, Any], requests: int) -> str:
    """ "1.99x", below it its interval, and how many requests stand in it if not all that the row has."""
    if ratio["ratio"] is None:
        return NONE
    low, high = ratio["ci95"]
    lines = [against(ratio["ratio"])]
    if low is not None and not low == high == 1:  # single against itself
        lines.append(f"{against(low)[:-1]}-{against(high)[:-1]}")
    return "\n".join([*lines, *([f"n={ratio['n']}"] if ratio["n"] != requests else [])])


def tails(methods: Sequence[Mapping[str, Any]]) -> str:
    """p95 and p99 of the methods that had enough requests for them; nothing where none had."""
    words = []
    for method in methods:
        known = [
            f"{key} {duration(value)}" for key in ("p95", "p99") if (value := method["latency_s"][key]) is not None
        ]
        words += [f"{method['label']} {', '.join(known)} (n {method['requests']})"] if known else []
    return f"latency of the slowest requests: {'; '.join(words)}" if words else ""


def error(value: float) -> str:
    """1.23e-06 -> "1.2e-6"."""
    number, power = f"{value:.1e}".split("e")
    return f"{number}e{int(power)}" if value else "0"


def fidelity(method: Mapping[str, Any]) -> str:
    """Largest error of a method that equals single; else cosine, and top-1 agreement or KL divergence. With generation
    the share of new tokens that are single's."""
    found = method["fidelity"]
    if found["max_abs_error"] is None:
        return "not finite" if method["requests"] and method["compared"] else NONE
    tokens = (method.get("generation") or {}).get("token_agreement")
    same = [] if tokens is None else [f"tokens {tokens:.0%}"]
    if method["equals_single"]:
        return "\n".join([f"err {error(found['max_abs_error'])}", *same])
    words = [] if found["cosine"] is None else [f"cos {found['cosine']:.4f}"]
    if found["top1_agreement"] is not None:
        words.append(f"top-1 {found['top1_agreement']:.0%}")
    elif found["kl"] is not None:
        words.append(f"KL {found['kl']:.2g}")
    return "\n".join(words + same) or f"err {error(found['max_abs_error'])}"


def task_metric(methods: Sequence[Mapping[str, Any]]) -> str | None:
    """What the model's task is measured by; None where it is not known of any method."""
    return next((method["task"]["metric"] for method in methods if method.get("task")), None)


def task(method: Mapping[str, Any]) -> str:
    """How good the model is as this method computes it: "97.2%" of "top1"."""
    found = method.get("task")
    return metric(found["metric"], found["this"]) if found and method["status"] == "ok" else NONE


def task_legend(methods: Sequence[Mapping[str, Any]]) -> str:
    """What the column of the task is, where there is one."""
    found = next((method["task"] for method in methods if method.get("task")), None)
    if found is None:
        return ""
    original = f"; the original {metric(found['metric'], found['original'])}" if "original" in found else ""
    return f"task: on {found['n']} held-out inputs, measured when the model was prepared{original}"


def cells(method: Mapping[str, Any]) -> list[str | Text]:
    """A row; of a method that did not end well its status and, as it did not do what was asked, no figure."""
    if method["status"] != "ok":
        return [method["label"], str(method["requests"]), Text(method["status"], "bold red"), *[NONE] * 6]
    return [
        method["label"],
        str(method["requests"]),
        latency(method),
        *costs(method),
        speedup(method["speedup"], method["requests"]),
        fidelity(method),
    ]


def costs(method: Mapping[str, Any]) -> list[str]:
    """Compute, waiting, input over result, and the bytes of the device that sent most, as `LEGEND` has it."""
    waiting, *ends = (
        NONE if seconds is None or seconds < CLOCK_NOISE_S or len(method["payload_bytes"]) == 1 else duration(seconds)
        for seconds in (method["exchange_wait_s"], method["scatter_s"], method["gather_s"])
    )
    wire = [count for count in method["wire_bytes"] if count is not None]
    sent = size(max(method["payload_bytes"], default=None))
    return [
        duration(method["compute_s"]),
        waiting,
        NONE if set(ends) == {NONE} else "\n".join(ends),
        f"{sent}\n{size(max(wire))}" if wire else sent,
    ]


if __name__ == "__main__":
    from testbed.cli import main

    main(["report", *sys.argv[1:]])

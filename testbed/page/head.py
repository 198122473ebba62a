"""The first screen: what ran, what its network is worth, on which machine, and what must be known before the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from testbed import report
from testbed.page.data import Run, Study, of
from testbed.page.markup import Piece, details, paragraph, table, text
from testbed.quantities import counted
from testbed.tables import size

LISTED = 6  # values, reasons or runs; what is more is counted
OPEN_RUNS = 8  # a longer table of runs is folded
GOOD = {
    "ok": "The network was the declared one: its links were measured with real messages before and after the run.",
    "unshaped": "Nothing was shaped: plain processes on loopback, so there is no network to judge.",
}


def head(study: Study) -> Piece:
    """Title, banners loudest first, facts."""
    names = list(dict.fromkeys(str(run.data.topology["name"]) for run in study.runs))
    parts = [f"<h1>{text(some(names))}</h1>", *_verdicts(study), *_banners(study), *_failures(study)]
    return Piece("\n".join([*parts, _facts(study), _runs(study)]))


def _verdicts(study: Study) -> list[str]:
    """A banner for every verdict that a run has, the worst first."""
    found = []
    for verdict in ("wrong", "unverified", "degraded", "ok", "unshaped"):
        runs = [run for run in study.runs if run.verdict == verdict]
        if runs and verdict in GOOD:
            found.append(
                _banner("good" if verdict == "ok" else "plain", _which(runs, study).strip(" ()"), GOOD[verdict])
            )
        elif runs:
            kind = "bad" if verdict == "wrong" else "careful"
            reasons = _told(study, [(run, reason) for run in runs for reason in run.summary["network"]["reasons"]])
            title = f"{report.VERDICTS[verdict][0]}{_which(runs, study)}"
            found.append(_banner(kind, f"{title}:", some(reasons, "; ") + "."))
    return found


def _told(study: Study, found: Iterable[tuple[Run, str]]) -> list[str]:
    """Each line once, behind the runs that it is about."""
    lines: dict[str, list[str]] = {}
    for run, line in found:
        lines.setdefault(line, []).append(run.letter)
    return [line if len(study.runs) == 1 else f"{some(letters)}: {line}" for line, letters in lines.items()]


def _banners(study: Study) -> list[str]:
    """Replayed compute and untrained weights."""
    found = []
    for words in dict.fromkeys(one.replayed for one in study.settings if one.replayed):
        runs = [run for run in study.runs if study.settings[run.setting].replayed == words]
        told = "Devices waited the profiled time of each stage in place of computing; what they sent is real."
        found.append(_banner("careful", f"{words[0].upper()}{words[1:]}{_which(runs, study)}", told))
    if untrained := [run for run in study.runs if run.summary["untrained"]]:
        first, _, rest = report.UNTRAINED.partition(": ")
        found.append(_banner("careful", f"{first}{_which(untrained, study)}", f"{rest[0].upper()}{rest[1:]}"))
    return found


def _failures(study: Study) -> list[str]:
    """Methods that did not end well, and cells of a sweep that did not run."""
    lines = _told(study, [(run, line) for run in study.runs for line in report.reasons(run.summary["methods"])])
    found = [_banner("bad", "Methods that did not end well:", some(lines, "; "))] if lines else []
    skipped = [line for run in study.runs for line in run.data.skipped]
    found += [_banner("careful", "Not read:", some(skipped, "; "))] if skipped else []
    if study.failures:
        title = f"{counted(len(study.failures), 'cell')} of the sweep failed:"
        found.append(_banner("bad", title, some(study.failures, "; ")))
    return found


def _banner(kind: str, title: str, words: str) -> str:
    strong = f"<strong>{text(title if title.endswith(':') else f'{title}.')}</strong> " if title else ""
    return f'<p class="banner {kind}" role="note">{strong}{text(words)}</p>'


def _which(runs: list[Run], study: Study) -> str:
    """Which runs a sentence is about, nothing if it is about all."""
    if len(runs) == len(study.runs):
        return "" if len(runs) == 1 else f" (all {len(runs)} runs)"
    return f" ({len(runs)} of {len(study.runs)} runs: {some([run.letter for run in runs])})"


def _facts(study: Study) -> str:
    """A list of terms: equal for all runs, or the values that they have."""
    entries = [(name, some(dict.fromkeys(values), "; ")) for name, values in _terms(study).items()]
    body = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in entries if value)
    return f'<dl class="facts">{body}</dl>'


def _terms(study: Study) -> dict[str, list[str]]:
    axes = [one.axes for one in study.settings]
    machines = [run.data.manifest.get("machine") or {} for run in study.runs]
    asked = [run.data.topology["run"] for run in study.runs]
    started = sorted(str(run.data.manifest.get("started_utc")).replace("+00:00", "") for run in study.runs)
    return {
        "Model": [f"{one.get('model')}, {one.get('weights')} weights" for one in asked],
        "Input": [f"{one.get('tokens')} tokens, {one.get('inputs', 'sample')}" for one in asked],
        "Methods": [", ".join(dict.fromkeys(study.methods["label"]))],
        "Devices": [
            ", ".join(word for word in (one["devices"], one.get("cpu", "none")) if word != "none") for one in axes
        ],
        **_networks(study),
        "Compute": [one["compute"].removeprefix("compute ") for one in axes],
        "Requests": [_counts(study)],
        "Machine": [_machine(machine) for machine in machines],
        "Code": [_code(run.data.manifest) for run in study.runs],
        "Started (UTC)": [" to ".join(dict.fromkeys((started[0], started[-1])))],
    }


def _network(axes: Mapping[str, str]) -> str:
    known = [axes.get(axis, "none") for axis in ("network", "rate", "delay", "loss", "changes")]
    return ", ".join(word for word in known if word != "none")


def _networks(study: Study) -> dict[str, list[str]]:
    """A term if all settings share it, else one for each axis in which they differ, the slowest first."""
    settings = sorted(study.settings, key=lambda one: one.network.rate_bit_s or 0.0)
    if len({_network(one.axes) for one in settings}) == 1:
        return {"Network": [_network(settings[0].axes)]}
    names = {"network": "Network", "rate": "Bandwidth", "delay": "Delay one way", "loss": "Loss", "changes": "Changes"}
    found = {name: sorted({one.axes.get(axis, "none") for one in settings}) for axis, name in names.items()}
    found["Bandwidth"] = list(dict.fromkeys(one.axes.get("rate", "none") for one in settings))
    return {name: [value.removeprefix("delay ") for value in values] for name, values in found.items()
            if values != ["none"]}  # fmt: skip


def _counts(study: Study) -> str:
    """ "n = 10 per method", or of each where they differ."""
    counts = study.methods["n"]
    if counts.empty:
        return "none was measured"
    low, high = int(counts.min()), int(counts.max())
    each = f"n = {low}" if low == high else f"n = {low} to {high}"
    settings = f", in {len(study.settings)} settings" if len(study.settings) > 1 else ""
    return f"{each} per method, {len(of(study.requests))} in all{settings}; warm-up left out"


def _machine(found: Mapping[str, Any]) -> str:
    words = [found.get("cpu"), f"{found['cores']} cores" if found.get("cores") else None]
    words += [size(found["memory_bytes"]) if found.get("memory_bytes") else None, found.get("system")]
    return ", ".join(str(word) for word in (*words, found.get("kernel") and f"Linux {found['kernel']}") if word)


def _code(manifest: Mapping[str, Any]) -> str:
    git, versions = manifest.get("git") or {}, manifest.get("versions") or {}
    commit = f"commit {str(git['commit'])[:8]}{' and changes' * bool(git.get('dirty'))}" if git.get("commit") else None
    return ", ".join(str(word) for word in (commit, versions.get("torch") and f"torch {versions['torch']}") if word)


def _runs(study: Study) -> str:
    """Which letter is which run; nothing of a single one."""
    if len(study.runs) == 1:
        return ""
    rows = [
        (
            run.letter, run.data.topology["name"], _network(study.settings[run.setting].axes),
            report.VERDICTS[run.verdict][0] if run.verdict in report.VERDICTS else run.verdict,
            study.settings[run.setting].axes["compute"], len(of(study.requests, run=run.letter)),
            run.data.manifest.get("started_utc"), run.data.path,
        )
        for run in study.runs
    ]  # fmt: skip
    heads = ("run", "name", "network", "verdict", "compute", "requests", "started", "folder")
    return details(f"The {len(rows)} runs", table(heads, rows, "Runs of this page"), len(rows) <= OPEN_RUNS)


def some(values: Iterable[str], between: str = ", ") -> str:
    """The first few, and how many more."""
    every = list(values)
    more = [f"and {len(every) - LISTED} more"] if len(every) > LISTED else []
    return between.join([*every[:LISTED], *more])


def marked(words: str, replayed: str | None) -> str:
    """A caption that says so where compute was replayed."""
    return f"{words} {replayed[0].upper()}{replayed[1:]}." if replayed else words


def none_to_show(why: str) -> Piece:
    """A sentence in place of a figure."""
    return Piece(paragraph(why, "none"))

"""`testbed predict`: what each method of a topology would take, without running it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.cluster import Cluster
from agents.place import place
from runtime import families, methods
from runtime.errors import RuntimeFault
from runtime.profile import Profile
from runtime.shape import Shape
from runtime.steps import Compute, steps
from testbed import check, profiles
from testbed.predict import accounting, messages, paper
from testbed.predict.choice import Choice, choose, evaluate
from testbed.predict.work import Costs, Load, Outcome, PredictError, Work, build
from testbed.tables import duration, open_table, print_table, print_wrapped, size
from testbed.topology import MAX_HOSTS, MethodSpec, Topology

PROMPT_ONLY = "what follows a prompt is not predicted; leave this out, and the prompt is"


@dataclass(frozen=True)
class How:
    """What a prediction rests on beside topology and profile. model: forced, None: chosen; shaper: see `tcp_of`."""

    costs: Costs = field(default_factory=Costs)
    model: str | None = None
    shaper: str | None = None
    load: Load = field(default_factory=Load)


@dataclass(frozen=True)
class Forecast:
    """One method: its outcome and the model's name; or why there is none.

    line_bytes: what left the hosts per request, as it is on the line; speedup: over single, None without it.
    """

    label: str
    outcome: Outcome | None = None
    choice: Choice | None = None
    line_bytes: float = 0.0
    speedup: float | None = None
    error: str | None = None

    @property
    def row(self) -> dict[str, Any]:
        """Plain values, seconds and bytes, for programs. compute_s and transfer_s are of the busiest device."""
        if self.outcome is None or self.choice is None:
            return {"label": self.label, "error": self.error}
        compute_s, transfer_s = _parts(self.outcome)
        return {
            "label": self.label,
            "latency_s": self.outcome.latency_s,
            "requests": len(self.outcome.latencies_s),
            "latencies_s": list(self.outcome.latencies_s),
            "compute_s": compute_s,
            "transfer_s": transfer_s,
            "speedup": self.speedup,
            "line_bytes": self.line_bytes,
            "model": self.choice.model,
            "why": self.choice.why,
            "not_modelled": list(self.choice.missing),
            "error": None,
        }


def main(file: Path, profile: Path | None, how: How, as_text: bool, say: Callable[[str], None]) -> None:
    """Predict the methods of a topology file, and say so as a table, or as JSON. profile: default what FILE replays.

    Raises TopologyError for files with mistakes, PredictError, BadModel.
    """
    topology = check.load(file)
    if topology.run.generate is not None:
        raise PredictError(f"{file}: run.generate: {PROMPT_ONLY}")
    path = profile or (Path(topology.run.compute) if topology.run.compute else None)
    if path is None:
        raise PredictError(
            f"{file}: run.compute is real, so nothing says how long stages take: make a profile with "
            f"`testbed profile {file}`, then give --profile PROFILE or run.compute: {{replay: PROFILE}}"
        )
    times, shape = profiles.read(path), families.describe(topology.run.model, topology.run.weights)
    if (times.layers, times.width) != (shape.layers, shape.width):
        theirs, ours = (f"{one.layers} layers of width {one.width}" for one in (times, shape))
        raise PredictError(f"{path}: profile {times.name} is of {theirs}, {topology.run.model} has {ours}")
    costs = messages.measure()
    how = replace(how, costs=costs if len(topology.hosts) <= MAX_HOSTS else costs.alone())
    found, notes = predict(topology, times, shape, how), [*_shares(topology), *_accounted(times)]
    if as_text:
        show(found, times.name, how.costs, notes, Console(highlight=False))
    else:
        say(as_json(found, times.name, how.costs, notes))


def predict(topology: Topology, profile: Profile, shape: Shape, how: How | None = None) -> list[Forecast]:
    """A forecast for each method of the run; one that the profile does not know has none, and says why.

    Single is predicted too where the file leaves it out, for the speedups. Raises PredictError for a network that
    cannot be, or a model of prediction that does not exist.
    """
    how, specs = how or How(), list(topology.run.methods)
    found = [forecast(topology, profile, shape, how, spec) for spec in specs]
    single = next((f for f, spec in zip(found, specs, strict=True) if spec.method == "single"), None)
    single = single or forecast(topology, profile, shape, how, MethodSpec("single"))
    return [_with_speedup(forecast, single.outcome) for forecast in found]


def forecast(topology: Topology, profile: Profile, shape: Shape, how: How, spec: MethodSpec) -> Forecast:
    try:
        work = work_of(topology, profile, shape, spec)
        choice = choose(topology, work, how.load, how.model)
        outcome = evaluate(topology, work, choice, how.load, how.costs, how.shaper)
        return Forecast(spec.label, outcome, choice, _left_bytes(topology, outcome))
    except PredictError:
        raise
    except RuntimeFault as fault:  # the method is not defined so, or the profile does not know it
        return Forecast(spec.label, error=str(fault))


def work_of(topology: Topology, profile: Profile, shape: Shape, spec: MethodSpec) -> Work:
    """One request of one method on the hosts of a topology, the source first. Raises Unfit, ProfileError."""
    run = topology.run
    if run.generate is not None:
        raise PredictError(f"{topology.name}: run.generate: {PROMPT_ONLY}")
    hosts = [run.source, *(host.name for host in topology.hosts if host.name != run.source)]
    devices = hosts[:1] if methods.load(spec.method).cuts == "nothing" else hosts
    plan = place(spec.method, spec.options, shape, run.tokens, Cluster(tuple(devices)))
    plan = replace(plan, input_at=run.input_at)
    entry = profile.entry(plan)

    def seconds(rank: int, step: Compute) -> float:
        return entry.seconds(rank, step.stage, step.layer, profile.layers)

    hosts_by_rank = tuple(share.host for share in plan.shares)
    built = build(plan, lambda rank: steps(plan, shape, rank))
    return Work(hosts_by_rank, built, seconds, plan.source, replayed=run.compute is not None)


def as_json(forecasts: Sequence[Forecast], profile: str, costs: Costs, notes: Sequence[str]) -> str:
    """For programs: {"profile", "costs" (seconds per message and byte), "methods": [rows], "notes": [in words]}."""
    rows = [forecast.row for forecast in forecasts]
    return json.dumps({"profile": profile, "costs": asdict(costs), "methods": rows, "notes": list(notes)}, indent=1)


def show(forecasts: Sequence[Forecast], profile: str, costs: Costs, notes: Sequence[str], console: Console) -> None:
    """The table, what it rests on, and notes beyond that."""
    table = open_table("method", "latency", "compute", "transfer", "on line", "vs\nsingle", "model")
    for forecast in forecasts:
        row = forecast.row
        if row["error"]:
            table.add_row(forecast.label, *["-"] * 6)
            continue
        ratio = "-" if row["speedup"] is None else f"{row['speedup']:.2f}x"
        times = (duration(row[key]) for key in ("latency_s", "compute_s", "transfer_s"))
        table.add_row(forecast.label, *times, size(row["line_bytes"]), ratio, row["model"])
    print_table(table, console, ("on line", "model"))
    console.print("compute: of the busiest device, messages handled included; transfer: what latency is beyond that")
    words = f"nothing ran: stages take what profile {profile} says, and {messages.told([costs])[0]}"
    for said in (words, *notes):
        print_wrapped("Note: ", f"{said}.", console)
    for why, labels in _by_reason(forecasts).items():
        print_wrapped("Note: ", f"{', '.join(labels)}: {why}", console)


def _shares(topology: Topology) -> list[str]:
    """That the times of a profile are not divided by CPU shares, where there are any that a run would hold."""
    shared = [host.name for host in topology.hosts if host.cpu is not None]
    if not shared or topology.run.compute is not None:
        return []
    return [
        f"CPU shares ({', '.join(shared)}) are not counted: stages take the times of the profile as they are, of whole "
        "cores unless it was made with less"
    ]


def _accounted(profile: Profile) -> list[str]:
    told = accounting.told(paper.read(), profile)
    return [told] if told else []


def _by_reason(forecasts: Sequence[Forecast]) -> Mapping[str, list[str]]:
    """Why which model, what it leaves out, and why there is none; methods of which the same is true together."""
    found: dict[str, list[str]] = {}
    for forecast in forecasts:
        if forecast.choice is None:
            found.setdefault(f"no forecast: {forecast.error}", []).append(forecast.label)
        else:
            choice = forecast.choice
            why = f"model {choice.model}, {choice.why}. Not modelled: {', '.join(choice.missing)}."
            found.setdefault(why, []).append(forecast.label)
    return found


def _with_speedup(forecast: Forecast, single: Outcome | None) -> Forecast:
    if forecast.outcome is None or single is None:
        return forecast
    ratio = single.latency_s / forecast.outcome.latency_s if forecast.outcome.latency_s else None
    return replace(forecast, speedup=ratio)


def _left_bytes(topology: Topology, outcome: Outcome) -> float:
    senders = tuple(f"{host.name} -> " for host in topology.hosts)
    left = sum(size for hop, size in outcome.hop_bytes.items() if hop.startswith(senders))
    return left / len(outcome.latencies_s)


def _parts(outcome: Outcome) -> tuple[float, float]:
    """Seconds per request: what the busiest device computes, and what the latency is beyond that."""
    compute_s = max(outcome.busy_s) / len(outcome.latencies_s)
    return compute_s, max(0.0, outcome.latency_s - compute_s)

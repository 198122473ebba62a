"""Which model predicts what: events, wherever they are few enough; formulas for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.steps import AllReduce, Send
from testbed import envelope
from testbed.predict.analytic import analyse
from testbed.predict.flow import Tcp, frames_of
from testbed.predict.simulate import simulate
from testbed.predict.work import Costs, Load, Outcome, PredictError, Work
from testbed.topology import Lane, Topology

MODELS = ("events", "analytic")
MOST_TRAINS = 150_000  # that a simulation takes on, of all requests: some seconds
_LOSSY_REQUESTS, _LOSSY_TRAINS = 20, 4 * MOST_TRAINS  # at most: one request has luck
_NEARBY = (0.9, 0.95, 1.05, 1.1)  # times the cost of a message: which frames find no room hangs on that little


@dataclass(frozen=True)
class Choice:
    """model: one of MODELS; why: in words; missing: what it does not model of this network, in words."""

    model: str
    why: str
    missing: tuple[str, ...]


def choose(topology: Topology, work: Work, load: Load | None = None, forced: str | None = None) -> Choice:
    """The model for this work: `forced`, or events where there are not too many, else formulas, which leave out what
    only events can tell. Raises PredictError on another, and for several requests that are too many."""
    load = load or Load()
    needs = [*changing(topology), *(["several requests"] if not load.plain else [])]
    if forced is not None and forced not in MODELS:
        raise PredictError(f"model {forced}: there are {', '.join(MODELS)}")
    if forced == "analytic" and not load.plain:
        raise PredictError("the analytic model knows one request on an idle network; several need events")
    requests = len(load.arrivals) if load.arrivals is not None else load.requests
    if forced is not None:
        model, why = forced, "asked for"
    elif requests * trains(work) > MOST_TRAINS:
        many = f"{work.world} devices send {work.messages} messages"
        if not load.plain:
            raise PredictError(f"{many} in each of several requests: too many for events, and only these know several")
        model, why = "analytic", f"{many}, too many for events"
    else:
        there = f"there {'is' if len(needs) == 1 else 'are'} {', '.join(needs)}"
        model, why = "events", there if needs else "small enough"
    return Choice(model, why, _missing(topology, model))


def evaluate(
    topology: Topology, work: Work, choice: Choice, load: Load | None = None, costs: Costs | None = None,
    shaper: str | None = None,
) -> Outcome:  # fmt: skip
    """What the chosen model says. With loss and no other load, of several requests; where queues run full, and frames
    are not too many for that, the median of some simulations that hardly differ. shaper: see `tcp_of`."""
    if choice.model == "analytic":
        return analyse(topology, work, costs)

    def found(load: Load | None, costs: Costs | None) -> Outcome:
        return simulate(topology, work, load, costs, tcp_of(topology, shaper), topology.run.seed)

    if load is not None and not load.plain:
        return found(load, costs)
    if any(lane.loss.mean for lane in _lanes(topology)):
        requests = max(1, min(_LOSSY_REQUESTS, _LOSSY_TRAINS // max(1, trains(work))))
        return found(Load(requests), costs)
    one = found(None, costs)
    many = (1 + len(_NEARBY)) * trains(work) > _LOSSY_TRAINS
    if not one.dropped or many or costs is None or not costs.send_s + costs.receive_s:
        return one
    nearby = [replace(costs, send_s=part * costs.send_s, receive_s=part * costs.receive_s) for part in _NEARBY]
    return median_of([one, *(found(None, other) for other in nearby)])


def median_of(outcomes: Sequence[Outcome]) -> Outcome:
    """That whose latency is the (lower) median."""
    return sorted(outcomes, key=lambda outcome: outcome.latency_s)[(len(outcomes) - 1) // 2]


def tcp_of(topology: Topology, shaper: str | None = None) -> Tcp:
    """TCP as it is above a shaper: it keeps a small queue where it sees it, with tbf and on real network cards.

    shaper: one of SHAPERS; None: tbf if that can do it, else one that hides the queue.
    """
    sees = shaper == "tbf" if shaper is not None else not envelope.unfit(topology, "tbf")
    return Tcp(shaper="tbf") if sees else Tcp(small_queue_frames=None)


def trains(work: Work) -> int:
    """Trains of frames that a simulation of one request would send."""
    pieces, found = Tcp().pieces, 0
    for steps in work.steps:
        for step in steps:
            if isinstance(step, Send):
                found += len(step.to) * min(pieces, frames_of(step.payload_bytes))
            elif isinstance(step, AllReduce):
                found += 2 * (work.world - 1) * min(pieces, frames_of(step.payload_bytes // work.world))
    return found


def changing(topology: Topology) -> list[str]:
    """What of this network only events can tell, in words."""
    lanes = _lanes(topology)
    found = ["loss"] if any(lane.loss.mean for lane in lanes) else []
    found += ["jitter"] if any(lane.jitter_s for lane in lanes) else []
    found += ["a trace"] if any(lane.trace is not None for lane in lanes) else []
    return found + (["an event"] if any(event.kind != "kill" for event in topology.events) else [])


def _lanes(topology: Topology) -> list[Lane]:
    if topology.backend == "local":
        return []
    return [lane for link in topology.links for lane in (link.up, link.down)]


def _missing(topology: Topology, model: str) -> tuple[str, ...]:
    who = "devices that compete" if model == "analytic" else "computing that competes"
    found = [f"{who} for the cores of one machine"]
    if topology.backend == "local":
        return (*found, "the time that loopback takes")
    if model == "analytic":
        found += changing(topology)
    else:
        lanes = _lanes(topology)
        found += ["jitter beyond its mean"] if any(lane.jitter_s for lane in lanes) else []
        found += ["bursts of loss (as many, but one by one)"] if any(lane.loss.bursty for lane in lanes) else []
        down = any(event.kind == "down" for event in topology.events)
        found += ["what a link loses while it is down (it waits)"] if down else []
    return (*found, "devices killed by events") if any(e.kind == "kill" for e in topology.events) else tuple(found)

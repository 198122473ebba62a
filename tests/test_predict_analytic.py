"""The formulas of predictions against the simulation, a thousand devices, and who is asked when."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from agents.cluster import Cluster
from agents.place import place
from runtime import families
from runtime.plan import Plan
from runtime.steps import AllReduce, Receive, Send, steps
from testbed.predict.analytic import analyse
from testbed.predict.choice import MOST_TRAINS, choose, evaluate, tcp_of, trains
from testbed.predict.simulate import simulate
from testbed.predict.work import Costs, Load, PredictError, Work, build
from testbed.topology import Event, Lane, Loss, Step, Topology, Trace
from tests.networks import star
from tests.works import COMPUTE, all_gather, cable, line_bytes, medium, mesh, one_message, send, take, work

METHODS = [
    ("single", {}), ("sequence", {}), ("tensor", {}), ("block", {"joins": 2}),
    ("block", {"joins": 2, "exchange": "sp"}), ("pipeline", {}), ("astra", {"groups": 1}), ("astra", {"groups": 32}),
]  # fmt: skip


def _plan(method: str, options: dict[str, object], world: int, tokens: int = 196) -> Plan:
    shape = families.describe("vit-base", "random")
    return place(method, options, shape, tokens, Cluster(tuple(f"h{i + 1}" for i in range(world))))


def _work(plan: Plan, compute_s: float = 1e-3) -> Work:
    shape = families.describe("vit-base", "random")
    hosts = tuple(share.host for share in plan.shares)
    return Work(hosts, build(plan, lambda rank: steps(plan, shape, rank)), lambda rank, step: compute_s)


@pytest.mark.parametrize(("method", "options"), METHODS, ids=str)
@pytest.mark.parametrize("network", ["star", "mesh"])
def test_formulas_and_events_agree_on_symmetric_networks(method: str, options: dict[str, object], network: str) -> None:
    topology = star(4, Lane(50e6)) if network == "star" else mesh(4, Lane(50e6))
    one = _work(_plan(method, options, 4))
    events, formulas = simulate(topology, one), analyse(topology, one)
    assert formulas.latency_s == pytest.approx(events.latency_s, rel=0.02)
    assert formulas.busy_s == pytest.approx(events.busy_s)
    sent = [sum(outcome.hop_bytes.values()) for outcome in (formulas, events)]
    assert sent[0] == pytest.approx(sent[1], rel=0.05)  # acknowledgements may travel with data or alone


@pytest.mark.parametrize("world", [2, 4, 8])
def test_an_all_gather_is_the_bytes_of_the_others_over_the_rate(world: int) -> None:
    due_s = (world - 1) * line_bytes(150_000) * 8 / 10e6
    assert analyse(star(world), all_gather(world, 150_000)).latency_s == pytest.approx(due_s, rel=0.01)
    alone_s = line_bytes(150_000) * 8 / 10e6
    assert analyse(mesh(world, Lane(10e6)), all_gather(world, 150_000)).latency_s == pytest.approx(alone_s, rel=0.01)


def test_a_shared_medium_adds_all_bytes_up() -> None:
    steps = [[Receive(0, (1, 2), "exchange")], [send(0, 100_000)], [send(0, 100_000)]]
    topology = medium(3, 10e6)
    due_s = 2 * (line_bytes(100_000) + 34 * 90) * 8 / 10e6
    assert analyse(topology, work(steps)).latency_s == pytest.approx(due_s, rel=0.01)


@pytest.mark.parametrize("delay_s", [1e-3, 10e-3, 50e-3])
def test_delays_and_windows_are_near_those_of_the_simulation(delay_s: float) -> None:
    topology, one = star(4, Lane(100e6, delay_s)), all_gather(4, 150_000, 6, 0.01)
    assert analyse(topology, one).latency_s == pytest.approx(simulate(topology, one).latency_s, rel=0.15)


def test_computing_hides_transfer_and_messages_cost_time() -> None:
    alone_s = analyse(star(4), all_gather(4, 50_000)).latency_s
    assert analyse(star(4), all_gather(4, 50_000, compute_s=2 * alone_s)).latency_s == pytest.approx(2 * alone_s)
    costs = Costs(1e-3, 2e-3, 1e-6)
    outcome, events = (model(cable(Lane(1e9)), one_message(968), costs=costs) for model in (analyse, simulate))
    assert (outcome.latency_s, outcome.busy_s) == (pytest.approx(events.latency_s), pytest.approx(events.busy_s))


def test_messages_of_a_pair_are_taken_in_the_order_sent_however_many() -> None:
    many = 20
    steps = [[*(take(1) for _ in range(many))], [*(send(0, 10_000) for _ in range(many))]]
    due_s = many * line_bytes(10_000) * 8 / 10e6
    assert analyse(cable(Lane(10e6)), work(steps)).latency_s == pytest.approx(due_s, rel=0.01)


def test_an_all_reduce_costs_its_shifts() -> None:
    one = work([[COMPUTE, AllReduce(0, 1_000_000), COMPUTE]] * 4, 0.1)
    assert analyse(star(4), one).latency_s == pytest.approx(simulate(star(4), one).latency_s, rel=0.02)


@pytest.mark.parametrize("steps", [[[take(1)], [take(0)]], [[AllReduce(0, 100)], [take(0)]]], ids=["receive", "reduce"])
def test_steps_that_never_end_are_told(steps: list[list[Receive | AllReduce]]) -> None:
    with pytest.raises(PredictError, match="never end: rank 0 waits at"):
        analyse(cable(Lane(1e6)), work(steps))


@pytest.mark.parametrize("method", ["sequence", "astra", "tensor"])
def test_ranks_that_are_alike_are_built_once(method: str) -> None:
    plan = _plan(method, {}, 34) if method != "tensor" else _plan(method, {}, 12)
    shape, asked = families.describe("vit-base", "random"), list[int]()

    def make(rank: int) -> list[object]:
        asked.append(rank)
        return steps(plan, shape, rank)  # type: ignore[return-value]

    built = build(plan, make)  # type: ignore[arg-type]
    assert len(asked) <= 12
    assert [list(one) for one in built] == [steps(plan, shape, rank) for rank in range(plan.world)]


def test_ranks_of_a_causal_model_are_not_alike() -> None:
    shape = replace(families.describe("vit-base", "random"), causal=True, class_token=False, readout="last")
    hosts = Cluster(tuple(f"h{i + 1}" for i in range(34)))
    plan = place("astra", {}, shape, 200, hosts)
    built = build(plan, lambda rank: steps(plan, shape, rank))
    receivers = [[len(step.to) for step in one if isinstance(step, Send) and step.layer == 0] for one in built]
    assert receivers == [[33 - rank] if rank < 33 else [] for rank in range(34)]


def test_a_thousand_devices_take_seconds() -> None:
    began_s = time.monotonic()
    plan = _plan("astra", {"groups": 1}, 1000, 4096)
    topology = star(1000, Lane(1e9))
    one = _work(plan)
    choice = choose(topology, one)
    outcome = evaluate(topology, one, choice)
    took_s = time.monotonic() - began_s
    assert choice.model == outcome.model == "analytic" and "1000 devices" in choice.why
    assert took_s < 60, took_s
    # Every layer waits for a message of one frame from each of the others, or computes for longer.
    due_s = 12 * 999 * line_bytes(7) * 8 / 1e9
    assert due_s < outcome.latency_s < due_s + max(outcome.busy_s) + 0.1


LANE = Lane(10e6)


@pytest.mark.parametrize(
    ("topology", "word"),
    [
        (star(3, Lane(10e6, loss=Loss(0.01))), "loss"),
        (star(3, Lane(10e6, 5e-3, 1e-3)), "jitter"),
        (star(3, Lane(10e6, trace=Trace((Step(1.0, 1e6),)))), "a trace"),
        (replace(star(3), events=(Event(1.0, "down", ("h1", "s1"), for_s=1.0),)), "an event"),
    ],
    ids=["loss", "jitter", "trace", "event"],
)
def test_what_changes_needs_events_and_says_so(topology: Topology, word: str) -> None:
    one = all_gather(3, 100)
    choice = choose(topology, one)
    assert choice.model == "events" and word in choice.why
    forced = choose(topology, one, forced="analytic")
    assert forced.model == "analytic" and word in forced.missing


def test_the_choice_is_by_size_and_can_be_forced() -> None:
    small = all_gather(3, 100)
    assert choose(star(3), small).model == "events"
    many = all_gather(60, 100_000)
    assert trains(many) > MOST_TRAINS and choose(star(60), many).model == "analytic"
    assert choose(star(60), many, forced="events").model == "events"
    assert choose(star(3), small, Load(5)).why == "there is several requests"
    lossy = choose(star(60, Lane(10e6, loss=Loss(0.01))), many)
    assert lossy.model == "analytic" and "loss" in lossy.missing
    with pytest.raises(PredictError, match="too many for events"):
        choose(star(60), many, Load(5))
    with pytest.raises(PredictError, match="events, analytic"):
        choose(star(3), small, forced="magic")
    with pytest.raises(PredictError, match="several need events"):
        choose(star(3), small, Load(5), "analytic")


def test_losses_are_told_of_several_requests() -> None:
    topology = star(3, Lane(10e6, loss=Loss(0.01)))
    one = all_gather(3, 100)
    assert len(evaluate(topology, one, choose(topology, one)).latencies_s) == 20


def test_small_queues_are_those_of_a_shaper_that_shows_them() -> None:
    assert tcp_of(star(3)).small_queue_frames and not tcp_of(star(3, Lane(10e6, 5e-3))).small_queue_frames
    assert not tcp_of(star(3), "relay").small_queue_frames


def test_a_file_without_links_takes_no_time_on_the_network(tmp_path: Path) -> None:
    local = replace(star(3), backend="local", links=(), switches=())
    one = all_gather(3, 1_000_000, compute_s=0.5)
    for model in ("events", "analytic"):
        choice = choose(local, one, forced=model)
        assert evaluate(local, one, choice).latency_s == pytest.approx(0.5)
        assert "the time that loopback takes" in choice.missing

"""Links: per direction, with losses in bursts, traces, shared media; and events on them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from testbed import envelope, sections, traces
from testbed.topology import Event, Lane, Link, Loss, Step, Switch, TopologyError, Trace, dump, load
from tests.files import loaded, problems

NET = """\
name: n
backend: mininet
hosts: {h1: , h2: , h3: }
switches: {air: {type: shared, rate: 20 Mbit/s}}
defaults: {link: {loss: 1 %, down: {delay: 2 ms}}}
LINKS
run: {model: vit-tiny, tokens: 9}
"""
CABLES = NET.replace("switches: {air: {type: shared, rate: 20 Mbit/s}}\n", "switches: [s1]\n").replace(
    "link: {", "link: {rate: 8 Mbit/s, "
)


@pytest.mark.parametrize(
    "links",
    [
        "links: [{between: h1 - s1, up: {rate: 2 Mbit/s}}, h2 - s1, {between: h3 - s1, delay: 1 ms, queue: 50 ms}]",
        "links: [h1 - s1: {up: {rate: 2 Mbit/s}}, h2 - s1, h3 - s1: {delay: 1 ms, queue: 50 ms}]",
        "links: {h1 - s1: {up: {rate: 2 Mbit/s}}, h2 - s1: , h3 - s1: {delay: 1 ms, queue: 50 ms}}",
    ],
)
def test_what_is_said_of_a_direction_and_the_three_ways_to_write_it(tmp_path, links):
    loss = Loss(0.01)
    down = Lane(8e6, 0.002, loss=loss)
    both = Lane(8e6, 0.001, loss=loss, queue_bytes=50_000)
    assert loaded(tmp_path, CABLES.replace("LINKS", links)).links == (
        Link("h1", "s1", Lane(2e6, loss=loss), down),
        Link("h2", "s1", Lane(8e6, loss=loss), down),
        Link("h3", "s1", both, both),
    )


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("0.5 %", Loss(0.005)),
        ("{mean: 0 %, burst: 4}", Loss()),
        ("{mean: 50 %, burst: 1}", Loss(enter=1.0, leave=1.0)),
        ("{enter: 1 %, leave: 25 %}", Loss(0.0, 0.01, 0.25, 1.0)),
        ("{enter: 1 %, leave: 25 %, bad: 50 %, good: 0.1 %}", Loss(0.001, 0.01, 0.25, 0.5)),
    ],
)
def test_loss_alone_and_in_bursts(tmp_path, text, loss):
    links = f"links: [h1 - s1: {{loss: {text}}}, h2 - s1, h3 - s1]"
    assert loaded(tmp_path, CABLES.replace("LINKS", links)).links[0].up.loss == loss


@pytest.mark.parametrize(("mean", "burst"), [(0.01, 4), (0.2, 1), (0.5, 1.5), (0.001, 100)])
def test_bursts_have_the_mean_and_the_length_that_the_file_says(tmp_path, mean, burst):
    links = f"links: [h1 - s1: {{loss: {{mean: {mean * 100} %, burst: {burst}}}}}, h2 - s1, h3 - s1]"
    loss = loaded(tmp_path, CABLES.replace("LINKS", links)).links[0].down.loss
    assert loss.mean == pytest.approx(mean)
    assert 1 / loss.leave == pytest.approx(burst)  # the mean stay in the bad state, where each packet is lost
    assert (loss.good, loss.bad) == (0, 1)


def line(tmp_path: Path, trace: Trace, **lane: object) -> Path:
    """A file of two hosts and a link with this trace and these other quantities."""
    text = {
        "name": "n",
        "backend": "mininet",
        "hosts": {"h1": {}, "h2": {}},
        "links": [{"between": "h1 - h2", "trace": traces.write(trace), **lane}],
        "run": {"model": "vit-tiny", "tokens": 9},
    }
    file = tmp_path / "t.yaml"
    file.write_text(yaml.safe_dump(text), encoding="utf-8")
    return file


def test_a_trace_may_say_the_rate_and_its_largest_product_is_the_queue(tmp_path):
    trace = Trace((Step(0.0, 1e6), Step(5.0, 1e8, 0.1)), 10.0)
    assert load(line(tmp_path, trace)).links == (Link.both("h1", "h2", Lane(1e6, queue_bytes=1_250_000, trace=trace)),)
    both = Lane(2e6, 0.2, queue_bytes=1_250_000, trace=trace)
    assert load(line(tmp_path, trace, rate="2 Mbit/s", delay="200 ms")).links == (Link.both("h1", "h2", both),)
    slow = Lane(2e6, queue_bytes=65536, trace=trace)
    assert load(line(tmp_path, trace, rate="2 Mbit/s", queue="64 KiB")).links == (Link.both("h1", "h2", slow),)


@pytest.mark.parametrize(
    ("steps", "lane", "key", "said"),
    [
        ([Step(1.0, 1e6)], {}, "rate", "is missing: give it here, in defaults.link, or in the trace at 0 s"),
        ([Step(0.0, None, 0.1)], {}, "rate", "is missing: give it here, in defaults.link, or in the trace at 0 s"),
        (
            [Step(0.0, 1e6), Step(2.5, None, 0.001)],
            {"delay": "5 ms", "jitter": "2 ms"},
            "trace",
            "at 2.5 s the delay is 1 ms, less than the jitter of 2 ms",
        ),
    ],
)
def test_a_trace_that_does_not_fit_its_link(tmp_path, steps, lane, key, said):
    with pytest.raises(TopologyError) as caught:
        load(line(tmp_path, Trace(tuple(steps)), **lane))
    (found,) = caught.value.problems
    assert f" links[0].{key}: {said}" in found


def test_a_shared_medium(tmp_path):
    topology = loaded(
        tmp_path, NET.replace("LINKS", "links: {h1 - air: , air - h2: {down: {queue: 16 KiB}}, h3 - air: {loss: 0 %}}")
    )
    loss, out = Loss(0.01), math.inf
    assert topology.switches == (Switch("air", "shared", 2e7),)
    assert topology.links == (
        Link("h1", "air", Lane(2e7, loss=loss), Lane(out, 0.002, loss=loss)),
        Link("air", "h2", Lane(out, loss=loss), Lane(2e7, 0.002, loss=loss, queue_bytes=16384)),
        Link("h3", "air", Lane(2e7), Lane(out, 0.002)),
    )
    assert loaded(tmp_path, dump(topology)) == topology


@pytest.mark.parametrize(
    ("links", "where", "said"),
    [
        ("[h1 - air, h2 - air, h3 - air: {rate: 1 Mbit/s}]", "6 links[2].h3 - air.rate", "leave it out"),
        ("[h1 - air, h2 - air, h3 - air: {down: {queue: 16 KiB}}]", "6 links[2].h3 - air.down.queue", "nothing waits"),
        ("[h1 - air, h2 - air, air - h2]", "6 links[2]", "one link per pair"),
    ],
)
def test_what_a_shared_medium_refuses(tmp_path, links, where, said):
    found = problems(tmp_path, NET.replace("LINKS", f"links: {links}"))
    assert [line for line in found if line.startswith(f"t.yaml:{where}") and said in line], found


def test_only_hosts_are_on_a_shared_medium_and_its_rate_stays(tmp_path):
    links = "links: [h1 - air, h2 - s1, h3 - s1, s1 - air]"
    text = NET.replace("switches: {", "switches: {s1: , ").replace("link: {", "link: {rate: 8 Mbit/s, ")
    text = text.replace("LINKS", links)
    (found,) = problems(tmp_path, text)
    assert found == 't.yaml:6 links[3] = "s1 - air": air is a shared medium, only hosts are joined to it'
    events = "events: [at 1 s: rate 5 Mbit/s, at 2 s: h1 - air down for 1 s, at 3 s: h1 - air loss 5 %]"
    (found,) = problems(tmp_path, NET.replace("LINKS", f"links: [h1 - air, h2 - air, h3 - air]\n{events}"))
    assert found.startswith("t.yaml:7 events[0]") and "air is a shared medium, whose rate stays" in found


def test_events_with_and_without_quotes(tmp_path):
    links = "links: [h1 - s1, h2 - s1, h3 - s1]\n"
    lines = ["at 30 s: h2 - s1 down for 5 s", "at 60 s: loss 5 %", "at 90 s: kill h3"]
    bare = CABLES.replace("LINKS", links + "events:\n" + "".join(f"  - {line}\n" for line in lines))
    quoted = CABLES.replace("LINKS", links + "events:\n" + "".join(f'  - "{line}"\n' for line in lines))
    topology = loaded(tmp_path, bare)
    assert topology == loaded(tmp_path, quoted)
    down, loss, kill = topology.events
    assert down == Event(30.0, "down", ("h2", "s1"), for_s=5.0)
    assert (loss.at_s, loss.kind, loss.ends, loss.change.loss) == (60.0, "set", None, 0.05)
    assert kill == Event(90.0, "kill", host="h3")
    assert loaded(tmp_path, dump(topology)) == topology


STEPS = "{steps: [[0 s, 5 Mbit/s]]}"


@pytest.mark.parametrize(
    ("default", "link", "said"),
    [
        ("rate: 8 Mbit/s", "", ['defaults.link.rate = "8 Mbit/s": leave it out: every link is at a shared medium']),
        ("up: {rate: 8 Mbit/s}", "", ["defaults.link.up.rate = "]),
        (f"trace: {STEPS}", "", ["defaults.link.trace: leave rates out of it"]),
        ("loss: 1 %", f"rate: 1 Mbit/s, trace: {STEPS}", ["links.h1 - air.rate = ", "links.h1 - air.trace: leave"]),
    ],
)
def test_a_rate_that_a_shared_medium_would_ignore_is_refused_wherever_it_is(tmp_path, default, link, said):
    links = f"links: {{h1 - air: {{{link}}}, h2 - air: , h3 - air: }}"
    text = NET.replace("link: {loss: 1 %,", f"link: {{{default},").replace("LINKS", links)
    found = problems(tmp_path, text)
    assert len(found) == len(said)
    assert all(f" {part}" in line for part, line in zip(said, found, strict=True)), found


def test_a_default_rate_beside_a_shared_medium_is_that_of_the_cables(tmp_path):
    text = NET.replace("link: {", "link: {rate: 8 Mbit/s, ").replace("LINKS", "links: [h1 - air, h2 - air, h3 - h2]")
    assert [link.up.rate_bit_s for link in loaded(tmp_path, text).links] == [2e7, 2e7, 8e6]


def test_what_is_wrong_with_a_link_is_said_at_once_and_the_limits_are_those_of_the_shapers(tmp_path):
    links = "links: {h1 - s1: {rate: 2 Gbit/s, delay: 2 s, queue: 3 kB}, h2 - s1: , h3 - s1: }"
    found = problems(tmp_path, CABLES.replace("LINKS", links))
    assert [line.split(" = ")[0] for line in found] == [
        f"t.yaml:6 links.h1 - s1.{key}" for key in ("rate", "delay", "queue")
    ]
    for rate_bit_s in (64e3, 1e9):
        link = Link.both("h1", "h2", Lane(rate_bit_s, 1.0, queue_bytes=sections.MIN_QUEUE_BYTES))
        assert envelope.link_refusal(0, link, {}) == []
    short = Link.both("h1", "h2", Lane(1e6, queue_bytes=sections.MIN_QUEUE_BYTES - 1))
    assert [row.key for row in envelope.link_refusal(0, short, {})] == ["queue"]


def traced(tmp_path: Path, links: str, rows: int) -> Path:
    """A file whose default is a trace in a CSV of that many rows."""
    body = "".join(f"{i * 0.125},{1e7 + i / 3}\n" for i in range(rows))
    (tmp_path / "cell.csv").write_text("time_s,rate\n" + body, encoding="utf-8")
    file = tmp_path / "t.yaml"
    text = CABLES.replace("link: {", "link: {trace: cell.csv, ").replace("LINKS", f"links: {links}")
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_with_as_many_steps_as_there_may_be_can_be_dumped_and_loaded(tmp_path):
    links = "{h1 - s1: {delay: 1 ms, down: {delay: 1 ms}}, h2 - s1: , h3 - s1: {loss: 0 %}}"
    topology = load(traced(tmp_path, links, 20_000))  # 20,000 for one link, and for two both directions
    file = tmp_path / "run.yaml"
    file.write_text(dump(topology), encoding="utf-8")
    assert load(file) == topology
    with pytest.raises(TopologyError) as caught:
        load(traced(tmp_path, links, 20_001))
    (found,) = caught.value.problems
    assert "t.yaml:5 defaults.link.trace: with this the traces have 100005 steps, 100000 at most" in found


def test_a_trace_that_all_links_share_counts_once(tmp_path):
    file = traced(tmp_path, "[h1 - s1, h2 - s1, h3 - s1]", 60_000)
    text = file.read_text().replace("down: {delay: 2 ms}", "delay: 2 ms")
    file.write_text(text)
    assert {len(link.down.trace.steps) for link in load(file).links} == {60_000}

"""Traces: what a file may say, from other people's files too, and walks against the published figures."""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from testbed import traces, yamlfile
from testbed.topology import Step, Trace
from testbed.tracefiles import MOST_STEPS

HERE = Path(".")


def read(text: str, folder: Path = HERE) -> Trace:
    """A trace as it stands in a topology file."""
    with tempfile.TemporaryDirectory() as own:
        file = Path(own) / "t.yaml"
        file.write_text(f"trace: {text}\n", encoding="utf-8")
        return traces.read(yamlfile.read(file).value["trace"], folder)


def refused(text: str, folder: Path = HERE) -> str:
    """The one line that says why not."""
    with pytest.raises(ValueError) as caught:
        read(text, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        ("{constant: 10 Mbit/s}", Trace((Step(0.0, 1e7),))),
        ("{steps: [[2 s, 64 kbit/s]]}", Trace((Step(2.0, 64e3),))),
        (
            "{steps: [[0 s, 10 Mbit/s], [5 s, 2 Mbit/s, 20 ms, 1 %], [6 s, null, null, 0 %]], repeat: 10 s}",
            Trace((Step(0.0, 1e7), Step(5.0, 2e6, 0.02, 0.01), Step(6.0, loss=0.0)), 10.0),
        ),
        (
            "{onoff: {rate: 10 Mbit/s, low: 1 Mbit/s, on: 5 s, off: 2 s}}",
            Trace((Step(0.0, 1e7), Step(5.0, 1e6)), 7.0),
        ),
    ],
)
def test_reads_and_writes_back(text: str, trace: Trace) -> None:
    assert read(text) == trace
    assert traces.read(traces.write(trace), HERE) == trace


def gaps(most_s: float) -> st.SearchStrategy[float]:
    return st.floats(2e-3, most_s)


@st.composite
def any_trace(draw: st.DrawFn) -> Trace:
    at_s = draw(st.just(0.0) | gaps(1e4))
    steps = []
    for _ in range(draw(st.integers(1, 5))):
        values = [draw(st.none() | st.floats(low, high)) for low, high in ((64e3, 1e9), (0, 1), (0, 0.999))]
        steps.append(Step(at_s, *values) if any(value is not None for value in values) else Step(at_s, 1e6))
        at_s += draw(gaps(1e4))
    return Trace(tuple(steps), draw(st.none() | st.just(at_s)))


@given(any_trace())
def test_what_is_written_reads_back_to_the_last_bit(trace: Trace) -> None:
    assert traces.read(yaml.safe_load(yaml.safe_dump(traces.write(trace))), HERE) == trace


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "give a file's name"),
        ("null", "give a file's name"),
        ("[[0 s, 1 Mbit/s]]", "give a file's name"),
        ("{}", "one of file, steps, constant, onoff, markov"),
        ("{constnt: 1 Mbit/s}", 'did you mean "constant"?'),
        ("{constant: 1 Mbit/s, steps: []}", "one of"),
        ("{constant: 1 Mbit/s, repeat: 5 s}", "repeat: unknown key"),
        ("{steps: [[0 s, 1 Mbit/s]], repeet: 5 s}", 'repeet: unknown key, did you mean "repeat"?'),
        ("{constant: 1}", "constant: give a unit"),
        ("{constant: 63 kbit/s}", "constant: the rate is 63 kbit/s, a link carries 64 kbit/s to 1 Gbit/s"),
        ("{constant: 1001 Mbit/s}", "constant: the rate is 1.001 Gbit/s"),
        ("{steps: 5}", "steps: give a list"),
        ("{steps: []}", "at least one step"),
        ("{steps: [[0 s]]}", "steps[0]: give [time, rate, delay, loss]"),
        ("{steps: [[0 s, 1 Mbit/s, 1 ms, 1 %, 5]]}", "steps[0]: give [time"),
        ("{steps: [[0 s, null]]}", "steps[0]: give a rate, a delay or a loss"),
        ("{steps: [[0, 1 Mbit/s]]}", "steps[0] time: give a unit"),
        ("{steps: [[0 s, 1 Mbit/s], [1 s, 5 ms]]}", 'steps[1] rate: "ms" is no unit of a rate'),
        ("{steps: [[0 s, 1 Mbit/s, 2 s]]}", "steps[0]: the delay is 2 s, a link delays by 0 to 1 s"),
        ("{steps: [[0 s, 1 Mbit/s, null, 100 %]]}", "steps[0]: the loss is 100 %, it must be below 100 %"),
        ("{steps: [[1 s, 1 Mbit/s], [1 s, 2 Mbit/s]]}", "steps[1]: times must rise by 1 ms or more, and 1 s comes"),
        ("{steps: [[1 s, 1 Mbit/s], [0 s, 2 Mbit/s]]}", "steps[1]: times must rise"),
        ("{steps: [[1 s, 1 Mbit/s]], repeat: 1 s}", "repeat: the period is 1 s, it must end 1 ms or more after"),
        ("{steps: [[1 s, 1 Mbit/s]], repeat: true}", "repeat: give a duration"),
        ("{onoff: {rate: 10 Mbit/s, low: 1 Mbit/s, on: 5 s}}", "onoff.off: is missing"),
        ("{onoff: {rate: 10 Mbit/s, low: 1 Mbit/s, on: 5 s, of: 2 s}}", 'onoff.of: unknown key, did you mean "off"?'),
        ("{onoff: {rate: 10, low: 1 Mbit/s, on: 5 s, off: 2 s}}", "onoff.rate: give a unit"),
        ("{onoff: {rate: 10 Mbit/s, low: 1 bit/s, on: 5 s, off: 2 s}}", "onoff.low: the rate is 1 bit/s"),
        ("{onoff: {rate: 10 Mbit/s, low: 1 Mbit/s, on: 0 s, off: 2 s}}", "onoff.low: times must rise"),
        ("{onoff: {rate: 10 Mbit/s, low: 1 Mbit/s, on: 5 s, off: 0 s}}", "onoff.off: the period is 5 s"),
        ("{onoff: 5}", "onoff: give a mapping with rate, low, on, off"),
        ("{markov: {sed: 1}}", 'markov.sed: unknown key, did you mean "seed"?'),
        ("{markov: {seed: -1}}", "markov.seed: give a whole number"),
        ("{markov: {correlation: 1}}", "markov.correlation: give a number from 0 to below 1"),
        ("{markov: {low: 100 Mbit/s}}", "markov.low: must be below high, 100 Mbit/s"),
        ("{markov: {step: 0 s}}", "markov.step: must be above 0 s"),
        ("{markov: {for: 1 s}}", "markov.for: 1 steps, from 3 to 100000 are allowed"),
        ("{markov: {for: 30 h}}", "markov.for: 1.08e+05 steps"),
        ("{markov: {mean: 10 Mbit/s}}", "markov.mean: must be between low and high"),
        ("{markov: {std: 39 Mbit/s}}", "markov.std: 39 Mbit/s around 49.6 Mbit/s does not fit"),
        ("{markov: {std: 0.01 bit/s}}", "markov.std: less than 1 bit/s, give a constant"),
        ("{markov: {for: 20 s}}", "markov.correlation: no walk of 20 steps had 0.987"),
        ("{markov: {low: 10 kbit/s, high: 20 kbit/s}}", "markov step 0: the rate is"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_its_place_and_what_is_allowed(text: str, said: str) -> None:
    assert said in refused(text)


def test_a_trace_is_not_endless() -> None:
    rows = [[f"{at} s", "1 Mbit/s"] for at in range(MOST_STEPS + 1)]
    with pytest.raises(ValueError, match=r"steps\[100000\]: a trace has 100000 steps at most"):
        traces.read({"steps": rows}, HERE)


CSV = "time_s,rate,delay,loss\n0,1000000,0.005,0.01\n2.5,20 Mbit/s,5 ms,1 %\n3,,,0\n5.5,2e6,,\n"
CSV_STEPS = (Step(0.0, 1e6, 0.005, 0.01), Step(2.5, 2e7, 0.005, 0.01), Step(3.0, loss=0.0), Step(5.5, 2e6))


@pytest.mark.parametrize(
    ("text", "period_s"),
    [
        ("wifi.csv", None),
        ("{file: wifi.csv, repeat: false}", None),
        ("{file: wifi.csv, repeat: true}", 8.0),  # the last row lasts as long as the one before it
        ("{file: wifi.csv, repeat: 6 s, format: csv}", 6.0),
    ],
)
@pytest.mark.parametrize("content", [CSV, "\ufeff" + CSV.replace("\n", "\r\n") + "\r\n"])
def test_a_csv_file(tmp_path: Path, text: str, period_s: float | None, content: str) -> None:
    (tmp_path / "wifi.csv").write_text(content, encoding="utf-8", newline="")
    assert read(text, tmp_path) == Trace(CSV_STEPS, period_s)


def test_where_a_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("rate,time_s\n1000000,0\n")
    trace = Trace((Step(0.0, 1e6),))
    (tmp_path / "sub").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert traces.read(str(tmp_path / "a.csv"), HERE) == trace
    assert traces.read("~/a.csv", HERE) == trace
    assert traces.read("../a.csv", tmp_path / "sub") == trace
    os.mkfifo(tmp_path / "pipe.csv")  # reading it would wait for ever
    for name in ("b.csv", "pipe.csv", "sub"):
        assert refused(f"{{file: {name}, format: csv}}", tmp_path) == (
            f"{name}: there is no such file (looked for {tmp_path / name})"
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "t.csv:1: the head is time_s,rate[,delay,loss]"),
        ("time_s\n0\n", "t.csv:1: the head is"),
        ("time_s,rat\n", 't.csv:1: unknown column "rat", did you mean "rate"? the head is time_s,rate[,delay,loss]'),
        ("time_s;rate\n", "t.csv:1: unknown column"),
        ("0,1000000\n", "t.csv:1: unknown column"),
        ("time_s,rate,rate\n", "t.csv:1: the column rate is there twice"),
        ("time_s,rate\n", "at least one step"),
        ("time_s,rate\n0,1e6\n1\n", "t.csv:3: 1 values for the 2 columns time_s,rate"),
        ("time_s,rate\n0,1e6,5\n", "t.csv:2: 3 values for the 2 columns"),
        ("time_s,rate\n0,1e6\n\n1 s,1e6\n", "t.csv:4 time_s: give seconds as a number"),
        ("time_s,rate\n-1,1e6\n", "t.csv:2 time_s: give seconds as a number"),
        ("time_s,rate\n,1e6\n", "t.csv:2 time_s: give seconds"),
        ("time_s,rate\n0,nan\n", "t.csv:2 rate: give a rate"),
        ("time_s,rate\n0,5 Mbps\n", 't.csv:2 rate: "Mbps" is no unit of a rate'),
        ("time_s,rate\n0,5\n", "t.csv:2: the rate is 5 bit/s, a link carries"),
        ("time_s,rate\n0,\n", "t.csv:2: give a rate, a delay or a loss"),
        ("time_s,delay\n0,2\n", "t.csv:2: the delay is 2 s"),
        ("time_s,loss\n0,1\n", "t.csv:2: the loss is 100 %"),
        ("time_s,loss\n0,5\n", "t.csv:2 loss: must be from 0 to 1, or with a unit, e.g. 1 %"),
        ("time_s,rate\n0,1e6\n0,2e6\n", "t.csv:3: times must rise"),
        ('time_s,rate\n0,"1e6\n', "no CSV"),
    ],
)
def test_what_is_wrong_with_a_csv_file_has_its_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    assert said in refused("t.csv", tmp_path)


def test_a_file_that_is_no_trace(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    assert refused("t.csv", tmp_path) == "t.csv: is no text"
    (tmp_path / "one.csv").write_text("time_s,rate\n0,1e6\n")
    assert refused("{file: one.csv, repeat: true}", tmp_path).startswith("repeat: one.csv has fewer than two rows")
    assert "format: give csv or mahimahi" in refused("t.txt", tmp_path)
    assert "format: give csv or mahimahi" in refused("{file: one.csv, format: pcap}", tmp_path)
    assert "repeat: give true, false or a period" in refused("{file: one.csv, repeat: 5}", tmp_path)
    assert "file: give a file's name" in refused("{file: 5}")
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(65 * 2**20)
    assert refused("large.csv", tmp_path) == "large.csv: larger than 64 MiB, cut it"


def packets(tmp_path: Path, times_ms: list[int], name: str = "cell.up") -> Trace:
    (tmp_path / name).write_text("".join(f"{time_ms}\n" for time_ms in times_ms))
    return traces.read(name, tmp_path)


@pytest.mark.parametrize("ending", ["mahi", "up", "down", "trace"])
def test_mahimahi_with_a_packet_per_millisecond_is_12_mbit_s(tmp_path: Path, ending: str) -> None:
    assert packets(tmp_path, [1], f"cell.{ending}") == Trace((Step(0.0, 12e6),), 0.001)
    trace = packets(tmp_path, list(range(1, 1001)), f"cell.{ending}")
    assert trace == Trace(tuple(Step(index / 10, 12e6) for index in range(10)), 1.0)
    (tmp_path / "cell.log").write_text("1\n")
    assert read("{file: cell.log, format: mahimahi, repeat: true}", tmp_path).period_s == 0.001


def test_a_mahimahi_outage_keeps_its_time_and_the_trace_its_sum(tmp_path: Path) -> None:
    times_ms = [*range(1, 501), *range(1501, 2001)]
    trace = packets(tmp_path, times_ms)
    rates = [step.rate_bit_s for step in trace.steps]
    assert rates[:5] == [12e6] * 5
    assert rates[5:15] == [64e3] * 10  # what a link carries at least
    assert rates[15] == 12e6 - 10 * 64e3  # is taken off the next bin
    assert rates[16:] == [12e6] * 4


@given(st.lists(st.integers(0, 400), min_size=20, max_size=200), st.integers(50, 3000))
def test_a_mahimahi_trace_carries_its_packets(tmp_path_factory, gaps_ms: list[int], end_ms: int) -> None:
    times_ms = [sum(gaps_ms[: index + 1]) for index in range(len(gaps_ms))]
    times_ms.append(times_ms[-1] + end_ms)
    period_ms = times_ms[-1]
    folder = tmp_path_factory.getbasetemp()
    if len(times_ms) * 12_000 / period_ms < 64:  # kbit/s
        with pytest.raises(ValueError, match="on average, a link carries 64 kbit/s at least"):
            packets(folder, times_ms)
        return
    trace = packets(folder, times_ms)
    starts = [step.at_s for step in trace.steps] + [period_ms / 1e3]
    bits = [step.rate_bit_s * (b - a) for step, a, b in zip(trace.steps, starts[:-1], starts[1:], strict=True)]
    assert all(step.rate_bit_s >= 64e3 for step in trace.steps)
    assert math.isclose(sum(bits), len(times_ms) * 12_000, rel_tol=1e-4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cell.up: the last time is the period, it must be above 0 ms"),
        ("0\n", "cell.up: the last time is the period"),
        ("1\n\n2\n", "cell.up:2: give one time in whole milliseconds per line, e.g. 25"),
        ("1\n2.5\n", "cell.up:2: give one time"),
        ("-1\n", "cell.up:1: give one time"),
        ("2\n1\n", "cell.up:2: times must not fall, and 1 comes after 2"),
        ("1\n60000\n", "cell.up: 400 bit/s on average, a link carries 64 kbit/s at least"),
        ("100000000\n", "cell.up: 100000 s long, 10000 s are allowed"),
        ("1\n" * 200, "cell.up at 0 s: the rate is 2.4 Gbit/s"),
    ],
)
def test_what_is_wrong_with_a_mahimahi_file(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "cell.up").write_text(content)
    assert said in refused("cell.up", tmp_path)
    (tmp_path / "good.up").write_text("1\n")
    for repeat in ("false", "5 s"):
        assert "leave it out" in refused(f"{{file: good.up, repeat: {repeat}}}", tmp_path)


def rates_of(trace: Trace) -> list[float]:
    return [step.rate_bit_s or 0.0 for step in trace.steps]


def lag1(values: list[float]) -> float:
    return statistics.correlation(values[:-1], values[1:])


PUBLISHED = {"mean": 49.6, "median": 48.6, "std": 17.4, "correlation": 0.987}  # Mbit/s; arXiv 2505.19342


def test_the_walk_has_the_published_figures_with_every_seed() -> None:
    figures: list[dict[str, float]] = []
    for seed in range(40):
        trace = read(f"{{markov: {{seed: {seed}}}}}")
        rates = [rate / 1e6 for rate in rates_of(trace)]
        assert (len(rates), trace.period_s, trace.steps[1].at_s) == (600, 600.0, 1.0)
        assert min(rates) >= 20 and max(rates) <= 100
        found = {"mean": statistics.fmean(rates), "median": statistics.median(rates)}
        figures.append(found | {"std": statistics.pstdev(rates), "correlation": lag1(rates)})
    for found in figures:
        assert found["mean"] == pytest.approx(PUBLISHED["mean"], rel=1e-4)
        assert found["std"] == pytest.approx(PUBLISHED["std"], rel=1e-4)
        assert found["median"] == pytest.approx(PUBLISHED["median"], rel=0.015)
        assert found["correlation"] == pytest.approx(PUBLISHED["correlation"], abs=0.0013 + 1e-9)
    mean = statistics.fmean(found["correlation"] for found in figures)
    assert mean == pytest.approx(PUBLISHED["correlation"], abs=3e-4)  # no side of the allowed is preferred


def test_the_same_seed_is_the_same_walk_and_another_is_another() -> None:
    assert read("{markov: }") == read("{markov: {seed: 0, low: 20 Mbit/s, high: 100 Mbit/s, for: 600 s}}")
    one, other = (rates_of(read(f"{{markov: {{seed: {seed}}}}}")) for seed in (0, 1))
    assert one != other and sorted(one) == sorted(other)


@pytest.mark.parametrize(
    ("text", "mean", "std", "correlation"),
    [
        ("{markov: {correlation: 0.5, seed: 3}}", 49.6, 17.4, 0.5),
        ("{markov: {correlation: 0, mean: 60 Mbit/s, std: 5 Mbit/s}}", 60, 5, 0),
        ("{markov: {low: 1 Mbit/s, high: 2 Mbit/s, for: 1 h, mean: 1.2 Mbit/s, std: 150 kbit/s}}", 1.2, 0.15, 0.987),
        ("{markov: {step: 100 ms, for: 100 s, correlation: 0.95}}", 49.6, 17.4, 0.95),
    ],
)
def test_a_walk_has_what_it_is_asked_for(text: str, mean: float, std: float, correlation: float) -> None:
    trace = read(text)
    rates = rates_of(trace)
    assert statistics.fmean(rates) / 1e6 == pytest.approx(mean, rel=1e-3)
    assert statistics.pstdev(rates) / 1e6 == pytest.approx(std, rel=1e-3)
    assert abs(lag1(rates) - correlation) <= (1 - correlation) / 10 + 1e-9
    assert traces.read(traces.write(trace), HERE) == trace


def test_a_walk_does_not_touch_the_dice_of_others() -> None:
    random.seed(5)
    due = random.random()
    random.seed(5)
    read("{markov: {seed: 1}}")
    assert random.random() == due

"""What the user sees: tables of a run folder, one or several, and the progress line. Read back as plain text."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from runtime.record import Record
from testbed import report, tables
from testbed.compare import compare
from testbed.differences import differences
from testbed.manifest import manifest
from testbed.notes import Note
from testbed.progress import Progress, time_left_s
from testbed.statistics import spread
from testbed.store import RunData, RunFolder, load
from testbed.summary import summary

RUN_YAML = (
    "name: star2\nbackend: mininet\nhosts: {{h1: {{}}, h2: {{}}}}\nlinks: [{{between: h1 - h2, rate: 10 Mbit/s}}]\n"
    "run: {{source: h1, model: vit-base, weights: {weights}, tokens: 16, repeats: 3, budget: 60 s}}\n"
)
NETWORK = "backend: mininet\nhosts: {h1: {}, h2: {}}\nlinks: [{between: h1 - h2, rate: 10 Mbit/s}]"
LATENCY_S = {"single": 0.5, "sequence": 0.2, "astra G=32": 0.1}
SENT_BYTES = {"single": [0], "sequence": [1_806_336, 1_806_336], "astra G=32": [320, 280]}
DUE = {"rtt_s": 1e-4, "goodput_bit_s": 9.4e6, "message_s": {"1000": 0.0017, "256000": 0.2187}}
LINK = {
    "when": "before", "from": "h1", "to": "h2", "attempt": 1, "declared": {"rate_bit_s": 1e7}, "expected": DUE,
    "measured": {**DUE, "goodput_bit_s": 9.12e6}, "verdict": "ok", "why": "",
}  # fmt: skip
AFTER = {**LINK, "when": "after"}
COUNTED = {"frames": 990, "bytes": 1e6, "queue_drops": 0, "lost": 10, "overruns": 0, "declared_loss": 0.01}
WATCHED = {
    "label": "single", "seconds": 10.0, "directions": {"h1 -> s1": COUNTED}, "throttled_s": {}, "verdict": "ok",
    "why": "", "lateness": {"frames": 1, "median_s": 4e-5, "p99_s": 9e-5, "most_s": 2e-3, "cpu_s": 1.0},
}  # fmt: skip


def saved(path: Path, weights: str = "pretrained", faster: float = 1.0) -> RunData:
    """A run of three methods that went well and one that failed, written and read back."""
    failed = {"status": "failed", "error": "h2 lost in layer 3: its connection ended", "payload_formula": None}
    with RunFolder.create("star2", path) as folder:
        folder.write_text("run.yaml", RUN_YAML.format(weights=weights))
        machine = {"cores": 8, "cpu": f"cpu of {weights}"}
        folder.write_json("manifest.json", manifest([], {}, {"git": None, "machine": machine}))
        folder.write_json("links.json", [LINK, AFTER])
        methods: list[dict[str, Any]] = [
            {"method": label.split()[0], "label": label, "options": {}, "status": "ok", "error": None,
             "equals_single": label != "astra G=32", "payload_formula": sent}
            for label, sent in SENT_BYTES.items()
        ]  # fmt: skip
        folder.write_json("methods.json", [*methods, {**methods[1], "method": "tensor", "label": "tensor", **failed}])
        for method in methods:
            for request in range(3):
                for row in rows(method["label"], request, faster):
                    folder.append_record(row)
    return load(path)


def rows(label: str, request: int, faster: float) -> list[dict[str, Any]]:
    """One request: compute is half of the latency, waiting a quarter, distribution a tenth, return clock noise."""
    time_s = LATENCY_S[label] / faster
    found = []
    for rank, sent in enumerate(SENT_BYTES[label]):
        record = Record(request, rank, time_s, compute_s=time_s / 2, waited_s=time_s / 4, sent_bytes=sent)
        record.scatter_s, record.gather_s = time_s / 10, 9e-6
        record.wire_bytes = sent + 1000
        common = {"host": f"h{rank + 1}", "method": label.split()[0], "label": label, "warmup": False}
        found.append({**record.row(), **common})
    found[0]["fidelity"] = {"max_abs_error": 2e-6, "cosine": 0.9876, "top1_agreement": True, "kl": None}
    return found


def plain(width: int = 100) -> tuple[Console, StringIO]:
    """A console that is not a terminal."""
    text = StringIO()
    return Console(file=text, width=width, highlight=False), text


def shown(run: RunData, notes: list[Note] | None = None, width: int = 100) -> list[str]:
    console, text = plain(width)
    report.render(summary(run), run, notes or [], console)
    return text.getvalue().splitlines()


def line_of(lines: list[str], label: str) -> str:
    """The first line that starts so, one space between its words."""
    return " ".join(next(line for line in lines if line.startswith(label)).split())


def test_the_table_shows_what_was_measured(tmp_path: Path) -> None:
    lines = shown(saved(tmp_path / "out"))
    assert line_of(lines, "single") == "single 3 500 ms 250 ms - - 0 B 1.00x err 2.0e-6"
    assert line_of(lines, "sequence") == "sequence 3 200 ms 100 ms 50 ms 20 ms 1.81 MB 2.50x err 2.0e-6"
    sequence = next(i for i, line in enumerate(lines) if line.startswith("sequence"))
    assert lines[sequence + 1].split() == ["200-200", "ms", "-", "1.81", "MB", "2.50-2.50"]
    astra = next(i for i, line in enumerate(lines) if line.startswith("astra G=32"))
    assert "320 B" in lines[astra] and "5.00x" in lines[astra] and "cos 0.9876" in lines[astra]
    assert lines[astra + 1].split() == ["100-100", "ms", "-", "1320", "B", "5.00-5.00", "top-1", "100%"]


def test_a_failed_method_says_so_with_the_reason_underneath(tmp_path: Path) -> None:
    lines = shown(saved(tmp_path / "out"))
    assert line_of(lines, "tensor") == "tensor 0 failed - - - - - -"
    row = next(i for i, line in enumerate(lines) if line.startswith("tensor"))
    assert lines[row + 1].startswith("input:")  # one line for the row, then the legend
    assert "tensor failed: h2 lost in layer 3: its connection ended" in lines


def test_untrained_weights_are_the_first_thing_said(tmp_path: Path) -> None:
    assert shown(saved(tmp_path / "random", weights="random"))[0].startswith("Untrained (random) weights")
    assert "ntrained (" not in "".join(shown(saved(tmp_path / "out")))


def test_a_note_is_a_paragraph(tmp_path: Path) -> None:
    lines = shown(saved(tmp_path / "out"), [Note("x", "h2 is slow", "it is old", "take another")])
    assert lines[-1] == "Note: h2 is slow. It is old. Take another."


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_every_line_fits_and_no_word_is_cut(tmp_path: Path, width: int) -> None:
    note = Note("x", "seen " * 30, "cause " * 30, "advice " * 30)
    lines = shown(saved(tmp_path / "out"), [note], width)
    assert all(len(line) <= width for line in lines) and "…" not in "".join(lines)
    assert "\x1b" not in "".join(lines)
    assert line_of(lines, "single").startswith("single 3 500 ms ") and line_of(lines, "single").endswith("err 2.0e-6")
    assert ("not shown in" in "".join(lines)) is (width < 80)


def test_links_show_what_was_due_and_what_was_measured(tmp_path: Path) -> None:
    wrong = {**LINK, "from": "h2", "to": "h1", "measured": None, "verdict": "wrong", "why": "no measurement: refused"}
    console, text = plain()
    report.render_links([LINK, wrong], console)
    lines = text.getvalue().splitlines()
    assert lines[0].split() == ["rtt", "goodput", "1", "kB", "256", "kB"]
    assert lines[1].split() == ["link", "ms", "Mbit/s", "ms", "ms", "verdict"]
    assert line_of(lines, "due") == "due 0.1 9.4 1.7 219"
    assert line_of(lines, "h1 > h2") == "h1 > h2 0.1 9.12 1.7 219 ok"
    assert line_of(lines, "h2 > h1") == "h2 > h1 - - - - wrong"
    assert lines[-1] == "h2 > h1 wrong: no measurement: refused"


def test_links_of_any_other_form_are_shown_too() -> None:
    console, text = plain()
    link = {
        "from": "a",
        "to": "b",
        "declared": {"delay_s": 0.01, "loss": 0.01},
        "measured": {"loss": 0.02},
        "verdict": "ok",
    }
    report.render_links([link, {"from": "b", "to": "a", "verdict": "wrong"}], console)
    assert text.getvalue().splitlines()[1].split() == ["link", "%", "verdict"]
    assert line_of(text.getvalue().splitlines(), "a > b") == "a > b 2 ok"


def test_links_with_delay_and_loss_fit_into_80_columns() -> None:
    console, text = plain(80)
    due = {
        "rtt_s": 0.0215,
        "goodput_bit_s": None,
        "loss": 0.0199,
        "message_s": {f"{4**i}000": 4.0**i for i in range(5)},
    }
    rows = [
        {**LINK, "from": "h10", "to": f"h{i}", "expected": due, "measured": {**due, "loss": 0.0123}, "attempt": 2}
        for i in (11, 16)
    ]
    report.render_links([*rows, {**rows[1], "verdict": "degraded", "why": "late"}], console)
    lines = text.getvalue().splitlines()
    assert lines[0].split()[:2] == ["rtt", "loss"]
    assert line_of(lines, "h10 > h11 again") == "h10 > h11 again 21.5 1.23 1000 4000 16000 64000 256000 ok"
    assert sum(line.startswith("due") for line in lines) == 1 and all(len(line) <= 80 for line in lines)
    assert lines[-1] == "h10 > h16 again degraded: late"


def test_after_the_run_is_a_line_unless_something_is_wrong() -> None:
    console, text = plain()
    wrong = {**AFTER, "from": "h2", "to": "h1", "verdict": "wrong", "why": "RTT is 9 ms, not 1 ms"}
    report.render_links([LINK, AFTER], console)
    assert text.getvalue().splitlines()[-1] == "after the run, measured again: all 1 as declared"
    assert sum(line.startswith("h1 > h2") for line in text.getvalue().splitlines()) == 1
    report.render_links([LINK, AFTER, wrong], console)
    *_, told, why = text.getvalue().splitlines()
    assert told == "after the run, measured again: 1 of 2 as declared"
    assert why == "h2 > h1 after wrong: RTT is 9 ms, not 1 ms"


def with_file(path: Path, name: str, content: Any) -> RunData:
    """The run, with this file of its folder written anew."""
    saved(path)
    (path / name).write_text(json.dumps(content))
    return load(path)


def test_a_network_that_was_wrong_after_the_run_makes_it_not_valid(tmp_path: Path) -> None:
    wrong = {**AFTER, "verdict": "wrong", "why": "a long transfer gets 5 Mbit/s, not 9.4 Mbit/s"}
    run = with_file(tmp_path / "out", "links.json", [LINK, wrong])
    said = "after the run: h1 > h2 wrong: a long transfer gets 5 Mbit/s, not 9.4 Mbit/s"
    assert summary(run)["network"] == {"verdict": "wrong", "reasons": [said]}
    text = " ".join(" ".join(shown(run, width=80)).split())
    assert f"NOT VALID, the network was not the declared one: {said}" in text


def test_without_a_probe_after_the_run_nothing_is_verified(tmp_path: Path) -> None:
    run = with_file(tmp_path / "out", "links.json", [LINK])
    assert summary(run)["network"]["verdict"] == "unverified"
    assert any(line.startswith("NOT VERIFIED: the run ended before") for line in shown(run))


def test_a_method_during_which_frames_were_late_is_degraded_and_named(tmp_path: Path) -> None:
    late = {**WATCHED, "label": "sequence", "verdict": "degraded", "why": "1 of 100 frames came 2 ms late"}
    run = with_file(tmp_path / "out", "watch.json", [WATCHED, late])
    found = summary(run)
    assert found["network"] == {"verdict": "degraded", "reasons": ["sequence: 1 of 100 frames came 2 ms late"]}
    assert [m["network"] for m in found["methods"]] == ["ok", "degraded", None, None]
    assert any(line.startswith("DEGRADED") and "sequence: 1 of 100" in line for line in shown(run, width=200))


def test_what_happened_on_the_network_is_told_in_lines(tmp_path: Path) -> None:
    full = {**WATCHED, "directions": {"h1 -> s1": {**COUNTED, "queue_drops": 7}}}
    lines = shown(with_file(tmp_path / "out", "watch.json", [full]))
    assert "lost of 1000 frames while methods ran: 1 % in h1 -> s1 (1 % declared)" in lines
    assert "full queues dropped 7 frames: h1 -> s1 7" in lines
    assert "relay: 99 % of frames under 90 us late, at most 2 ms; 0.10 of a core" in lines
    control = {"nodes": 3, "ray_up_s": 5.2, "memory_bytes": 420e6, "bytes_per_s": 2400.0}
    lines = shown(with_file(tmp_path / "other", "control.json", control))
    assert "control (Ray): up in 5.2 s, 420 MB in 3 nodes, 2400 B/s beside the links" in lines
    assert summary(load(tmp_path / "other"))["control"] == control


def test_changes_are_one_line_for_the_methods_that_met_them(tmp_path: Path) -> None:
    down = {"at_s": 2.0, "applied_s": 2.004, "where": "h2 -> s1", "what": "down", "error": None}
    walk = [
        {**down, "label": "tensor", "at_s": float(s), "applied_s": float(s), "what": f"{s} Mbit/s"} for s in range(9)
    ]
    changes = [*({**down, "label": label} for label in ("single", "sequence")), *walk]
    lines = shown(with_file(tmp_path / "out", "changes.json", changes))
    assert "the network changed while single, sequence ran: at 2 s h2 -> s1 down" in lines
    words = "9 changes of h2 -> s1 from 0 ms to 8 s, see changes.json; 4 ms late at most"
    assert f"the network changed while tensor ran: {words}" in " ".join(lines)


def test_a_change_that_could_not_be_made_is_a_wrong_network(tmp_path: Path) -> None:
    failed = {"label": "single", "at_s": 2.0, "applied_s": 2.0, "where": "h2 -> s1", "what": "down", "error": "tc: no"}
    found = summary(with_file(tmp_path / "out", "changes.json", [failed]))["network"]
    assert found == {"verdict": "wrong", "reasons": ["single: at 2 s h2 -> s1 down was not applied: tc: no"]}


def steps(late_s: float, gap_s: float = 0.1) -> list[dict[str, Any]]:
    """A hundred changes of one direction, gap_s apart, each late_s later than the one before."""
    change = {"label": "single", "where": "h1 -> h2", "what": "rate 1 Mbit/s", "error": None}
    return [{**change, "at_s": n * gap_s, "applied_s": n * (gap_s + late_s)} for n in range(100)]


def test_changes_that_come_ever_later_are_a_degraded_network(tmp_path: Path) -> None:
    found = summary(with_file(tmp_path / "out", "changes.json", steps(0.4)))["network"]
    assert found["verdict"] == "degraded"
    worst = "the worst: at 9.9 s h1 -> h2 rate 1 Mbit/s came 39.6 s late, 50 ms are allowed"
    assert found["reasons"] == [f"single: 99 of 100 changes came too late, {worst}"]
    assert summary(with_file(tmp_path / "good", "changes.json", steps(0.0005)))["network"]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("late_s", "next_s", "verdict"),
    [(0.049, None, "ok"), (0.051, None, "degraded"), (1.9, 4.0, "ok"), (2.1, 4.0, "degraded"), (0.049, 0.01, "ok")],
)
def test_how_late_a_change_may_come_depends_on_how_long_it_holds(
    tmp_path: Path, late_s: float, next_s: float | None, verdict: str
) -> None:
    first = {"label": "single", "at_s": 1.0, "where": "h2 -> s1", "what": "down", "error": None}
    other = {**first, "where": "s1 -> h2", "at_s": 1.001, "applied_s": 1.001}  # says nothing of the first direction
    rows = [{**first, "applied_s": 1 + late_s}, other]
    if next_s is not None:
        rows.append({**first, "at_s": 1 + next_s, "applied_s": 1 + next_s})
    assert summary(with_file(tmp_path / "out", "changes.json", rows))["network"]["verdict"] == verdict


@pytest.mark.parametrize(("late_s", "verdict"), [(3.9, "ok"), (4.1, "degraded")])
def test_the_last_change_was_to_hold_until_the_requests_ended(tmp_path: Path, late_s: float, verdict: str) -> None:
    with_file(tmp_path / "out", "watch.json", [WATCHED])  # of 10 s
    down = {"label": "single", "at_s": 2.0, "applied_s": 2 + late_s, "where": "h2 -> s1", "what": "down", "error": None}
    (tmp_path / "out" / "changes.json").write_text(json.dumps([down]))
    found = summary(load(tmp_path / "out"))
    assert found["network"]["verdict"] == found["methods"][0]["network"] == verdict


@pytest.mark.parametrize(
    ("directions", "words"), [(3, None), (4, "2 in 1 more direction"), (5, "4 in 2 more directions")]
)
def test_full_queues_of_many_directions_are_counted(tmp_path: Path, directions: int, words: str | None) -> None:
    seen = {f"h{n} -> s1": {**COUNTED, "queue_drops": 9 if n < 3 else 2} for n in range(directions)}
    lines = shown(with_file(tmp_path / "out", "watch.json", [{**WATCHED, "directions": seen}]))
    (line,) = (line for line in lines if line.startswith("full queues"))
    assert line.endswith(words or "h2 -> s1 9") and f"dropped {27 + 2 * (directions - 3)} frames" in line


def test_what_was_not_judged_is_said_below_the_links(tmp_path: Path) -> None:
    late = {"goodput_bit_s": "the queue of 3 kB holds no round trip"}
    lines = shown(with_file(tmp_path / "out", "links.json", [{**LINK, "links": [], "not_judged": late}, AFTER]))
    assert "a long TCP transfer not judged: the queue of 3 kB holds no round trip (h1 > h2)" in lines
    many = {**LINK, "links": [], "not_judged": {f"message_s {n}000": "it crosses whole" for n in range(6)}}
    both = [many, {**many, "when": "after"}]
    lines = shown(with_file(tmp_path / "many", "links.json", both))
    told = [line for line in lines if "not judged" in line]
    assert told[0] == "messages of 0000 B not judged: it crosses whole (h1 > h2)" and len(told) == 5
    assert told[-1] == "2 more not judged, see links.json"


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (9999, "9999 B"),
        (10_000, "10 kB"),
        (1_806_336, "1.81 MB"),
        (999_700_000, "1 GB"),
        (21_676_032, "21.7 MB"),
        (3e9, "3 GB"),
    ],
)
def test_sizes_have_three_digits(size_bytes: int, words: str) -> None:
    assert tables.size(size_bytes) == words


def test_comparing_one_run_is_its_report(tmp_path: Path) -> None:
    saved(tmp_path / "a", weights="random")
    console, text = plain()
    compare([tmp_path / "a"], console)
    assert text.getvalue().startswith("Untrained") and "h1 > h2" in text.getvalue() and "Note:" in text.getvalue()


def test_two_runs_stand_side_by_side_with_what_differs(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    saved(tmp_path / "b", weights="random", faster=2.0)
    console, text = plain(80)
    compare([tmp_path / "a", tmp_path / "b"], console)
    lines = text.getvalue().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("sequence"))
    assert lines[first].split()[1:6] == ["A", "3", "200", "ms", "1.00x"]
    assert lines[first + 2].split()[:5] == ["B", "3", "100", "ms", "2.00x"]
    assert lines[first + 3].split()[:3] == ["100-100", "ms", "2.00-2.00"]
    assert "Differs: run.weights: A pretrained; B random" in lines
    assert "Marked: machine.cpu: A cpu of pretrained; B cpu of random" in lines
    assert not any("machine.cores" in line for line in lines)
    assert lines[0].startswith("Untrained") and "A  tensor failed: h2 lost in layer 3: its connection ended" in lines
    assert not any(line.startswith("Note") for line in lines)


def differing(tmp_path: Path, *networks: str) -> list[str]:
    """What the comparison of runs on these networks (lines of run.yaml) says, beside its table."""
    paths = [tmp_path / str(number) for number in range(len(networks))]
    for path, network in zip(paths, networks, strict=True):
        saved(path)
        text = RUN_YAML.format(weights="pretrained")
        (path / "run.yaml").write_text(text.replace(NETWORK, network))
    console, text_io = plain()
    compare(paths, console)
    return [line for line in text_io.getvalue().splitlines() if line.startswith(("Differs", "Note"))]


def test_runs_that_differ_in_one_link_say_which_and_how(tmp_path: Path) -> None:
    links = "links: [{between: h1 - s1, rate: 10 Mbit/s}, {between: %s, rate: %s}]"
    lines = differing(tmp_path, links % ("h3 - s1", "10 Mbit/s"), links % ("s1 - h3", "5 Mbit/s"))
    assert lines == ["Differs: links.h3 - s1.rate: A 10 Mbit/s; B 5 Mbit/s"]


def test_directions_of_a_link_are_compared_whichever_end_is_named_first(tmp_path: Path) -> None:
    one = "links: [{between: h3 - s1, up: {rate: 1 Mbit/s}, down: {rate: 9 Mbit/s}}]"
    other = "links: [{between: s1 - h3, up: {rate: 9 Mbit/s}, down: {rate: 2 Mbit/s}}]"
    assert differing(tmp_path, one, other) == ["Differs: links.h3 - s1.up.rate: A 1 Mbit/s; B 2 Mbit/s"]


def test_differences_are_words_and_alike_ones_share_a_line(tmp_path: Path) -> None:
    star = "hosts: {h1: {cpu: 0.5}, h2: {cpu: 0.5}}\nswitches: {s1: {type: bridge}}"
    assert differing(tmp_path, star, "hosts: {h1: {}, h2: {}, h3: {}}") == [
        "Differs: hosts: A h1, h2; B h1, h2, h3",
        "Differs: hosts.h1.cpu, hosts.h2.cpu: A 0.5; B none",
        "Differs: switches: A s1; B none",
    ]


def test_runs_that_are_alike_say_so_and_share_their_notes(tmp_path: Path) -> None:
    local = "hosts: {h1: {}, h2: {}}\nbackend: local"
    note, last = differing(tmp_path, local, local)
    assert note.startswith("Note A, B: nothing was shaped.") and last == "Differs: nothing that was declared"


def test_a_commit_is_eight_digits(tmp_path: Path) -> None:
    for name in "ab":
        saved(tmp_path / name)
        path = tmp_path / name / "manifest.json"
        known = json.loads(path.read_text())
        path.write_text(json.dumps({**known, "git": {"commit": name * 40, "dirty": name == "a"}}))
    found = differences({name.upper(): [load(tmp_path / name)] for name in "ab"})
    assert [str(one) for one in found] == ["git.commit: A aaaaaaaa; B bbbbbbbb", "git.dirty: A yes; B no"]
    assert all(one.marked for one in found)


@pytest.mark.parametrize(
    ("ratio", "words"), [(None, "-"), (2048.3, "2050x"), (85.94, "85.9x"), (0.052, "0.05x"), (0.000488, "0.00049x")]
)
def test_ratios_are_never_powers_of_ten(ratio: float | None, words: str) -> None:
    assert report.against(ratio) == words


@pytest.mark.parametrize(
    ("count", "words"), [(19, ""), (20, "slow p95 1.95 s (n 20)"), (500, "slow p95 1.95 s, p99 1.99 s (n 500)")]
)
def test_slow_requests_are_told_of_methods_that_had_enough(count: int, words: str) -> None:
    seconds = spread([1 + number / (count - 1) for number in range(count)])
    told = report.tails([{"label": "slow", "requests": count, "latency_s": seconds}])
    assert told == (f"latency of the slowest requests: {words}" if words else "")


class Clock:
    """A clock that the test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_plain_progress_prints_a_line_every_few_seconds_and_one_at_the_end() -> None:
    console, text = plain()
    clock = Clock()
    with Progress(console, clock) as progress:
        progress.stage("network up")
        progress.method("tensor", 10, 60.0)
        for done in range(10):
            clock.now_s += 2.0
            progress.request(2.0, done, warmup=done == 0)
        progress.done("ok", "9 requests")
    lines = text.getvalue().splitlines()
    assert lines[0] == "network up" and lines[-1].split() == ["tensor", "ok", "9", "requests"]
    assert lines[1].split() == ["tensor", "2", "of", "10,", "2", "s", "a", "request,", "16", "s", "left"]
    assert len(lines) == 5


def test_a_terminal_gets_one_live_line() -> None:
    text = StringIO()
    console = Console(file=text, width=80, force_terminal=True, highlight=False)
    with Progress(console, Clock()) as progress:
        progress.method("astra G=1", 4, 60.0)
        progress.request(0.25, 0, warmup=True)
        progress._live.refresh()
        progress.request(0.25, 1, warmup=False)
        progress._live.refresh()
        progress.done("failed", "h2 lost in layer 3")
    assert "warming up, 250 ms a request, 1 s left" in text.getvalue()
    assert "1 of 4, 250 ms a request, 1 s left" in text.getvalue()
    assert "h2 lost in layer 3" in text.getvalue()


def test_time_left_ends_with_the_budget() -> None:
    assert time_left_s(10, 2.0, 60.0) == 20.0
    assert time_left_s(10, 20.0, 60.0) == 60.0
    assert time_left_s(10, 20.0, -5.0) == 0.0

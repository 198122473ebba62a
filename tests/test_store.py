"""The run folder: what is written is on disk, belongs to the user, and reads back; damage is named."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.record import Record
from testbed import disk
from testbed.manifest import checkout, manifest
from testbed.store import RunFolder, StoreError, load
from testbed.summary import summary
from tests.limits import largest_file

RUN_YAML = "name: tiny\nbackend: local\nhosts: {h1: {}, h2: {}}\nrun: {source: h1, model: vit-base, tokens: 16}\n"


def row(request: int = 0, rank: int = 0, **values: object) -> dict[str, object]:
    """A row as the run writes it."""
    record = Record(request=request, rank=rank, latency_s=0.5)
    return {**record.row(), "host": f"h{rank + 1}", "method": "single", "label": "single", "warmup": False, **values}


def filled(path: Path) -> Path:
    """A small run folder at `path`."""
    with RunFolder.create("tiny", path) as folder:
        folder.write_text("run.yaml", RUN_YAML)
        folder.write_json("manifest.json", manifest(["testbed", "run"], {"weights": 0}, {}))
        folder.append_record(row(0))
        folder.append_record(row(1))
    return path


def test_a_folder_reads_back(tmp_path: Path) -> None:
    run = load(filled(tmp_path / "out"))
    assert run.topology["name"] == "tiny"
    assert run.manifest["command"] == ["testbed", "run"]
    assert run.records == [row(0), row(1)]
    assert (run.links, run.methods, run.summary, run.skipped) == ([], [], None, ())
    assert (run.watch, run.changes, run.control) == ([], [], None)


def test_two_runs_of_one_second_have_two_folders_named_by_the_time(tmp_path: Path) -> None:
    paths = [RunFolder.create("tiny", runs=tmp_path / "runs").path for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.parent == tmp_path / "runs" / "tiny" for path in paths)
    assert all(path.name[8] == "T" and path.name[15] == "Z" for path in paths)


def test_a_record_is_readable_before_the_next_one_starts(tmp_path: Path) -> None:
    folder = RunFolder.create("tiny", tmp_path / "out")
    for number in range(3):
        folder.append_record(row(number))
        assert len((folder.path / "records.jsonl").read_text().splitlines()) == number + 1
    folder.close()


def test_a_run_killed_without_a_word_keeps_every_record_it_appended(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from testbed.store import RunFolder\n"
        "folder = RunFolder.create('tiny', pathlib.Path(sys.argv[1]))\n"
        "folder.append_record({'request': 0}); folder.append_record({'request': 1}); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert ended.returncode == -9
    lines = (tmp_path / "out" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["request"] for line in lines] == [0, 1]


def test_a_full_disk_is_one_line_and_leaves_no_half_row(tmp_path: Path) -> None:
    """What `testbed run` does with its folder, which is closed as well: nothing is raised in place of that line."""
    program = (
        "import pathlib, resource, sys; from testbed.store import RunFolder, StoreError\n"
        "try:\n"
        "    with RunFolder.create('tiny', pathlib.Path(sys.argv[1])) as folder:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "        for number in range(100):\n"
        "            folder.append_record({'request': number, 'more': 'x' * 100})\n"
        "except StoreError as error:\n"
        "    print(error)"
    )
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "-c", program, str(out)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{out}/records.jsonl: cannot be written: File too large\n"
    text = (out / "records.jsonl").read_text()
    whole = [json.loads(line)["request"] for line in text.splitlines()]
    assert text.endswith("}\n") and whole == list(range(len(whole))) and len(whole) > 20


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_last_line_that_was_cut_off_is_skipped_and_said(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path / "out")
    with (path / "records.jsonl").open("ab") as file:
        file.write(json.dumps(row(2)).encode()[:cut])
    run = load(path)
    assert run.records == [row(0), row(1)]
    assert "records.jsonl:3" in run.skipped[0]


def test_damage_before_the_last_line_is_refused_with_its_place(tmp_path: Path) -> None:
    path = filled(tmp_path / "out")
    good = (path / "records.jsonl").read_bytes()
    (path / "records.jsonl").write_bytes(good.replace(b"{", b"", 1))
    with pytest.raises(StoreError, match=r"records.jsonl:1: not JSON"):
        load(path)


@pytest.mark.parametrize("line", ["[]", "3", '{"request": 1}', json.dumps(row(2, latency_s="fast"))])
def test_a_line_that_is_no_record_is_refused(tmp_path: Path, line: str) -> None:
    path = filled(tmp_path / "out")
    with (path / "records.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(StoreError, match=r"records.jsonl:3: not a record"):
        load(path)


@pytest.mark.parametrize(
    "values",
    [
        {"wire_bytes": "many"},
        {"wire_bytes": 1.5},
        {"latency_s": float("nan")},
        {"latency_s": float("inf")},
        {"compute_s": 10**400},
        {"rank": -1},
        {"rank": True},
        {"late_s": 3},
        {"late_s": [0.1, "most"]},
        {"fidelity": "x"},
        {"fidelity": {"cosine": "near"}},
        {"dropped": {"late": "some"}},
        {"score": {"metric": "top1", "this": "right", "single": 1.0}},
        {"score": {"metric": "top1", "input": [], "this": 1.0, "single": 1.0}},
        {"error": 3},
    ],
    ids=lambda values: str(values)[:30],
)
def test_a_row_of_another_kind_is_refused_by_its_key(tmp_path: Path, values: dict[str, object]) -> None:
    path = filled(tmp_path / "out")
    with (path / "records.jsonl").open("a") as file:
        file.write(json.dumps(row(2, **values)) + "\n")
    with pytest.raises(StoreError, match=rf"records.jsonl:3: not a record \({next(iter(values))}\)$"):
        load(path)


def test_what_every_row_has_may_not_be_missing(tmp_path: Path) -> None:
    path = filled(tmp_path / "out")
    first = row(0)
    del first["wire_bytes"], first["compute_s"]
    (path / "records.jsonl").write_text(json.dumps(first) + "\n")
    with pytest.raises(StoreError, match=r"records.jsonl:1: not a record \(compute_s, wire_bytes\)$"):
        load(path)


def test_a_row_of_a_device_that_the_method_does_not_have_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "out")
    method = {"method": "single", "label": "single", "status": "ok", "payload_formula": [0]}
    (path / "methods.json").write_text(json.dumps([method]))
    assert len(load(path).records) == 2
    with (path / "records.jsonl").open("a") as file:
        file.write(json.dumps(row(1, rank=1)) + "\n")
    with pytest.raises(StoreError, match=r"records.jsonl:3: not a record \(rank 1 of single, which has 1 devices\)"):
        load(path)


@pytest.mark.parametrize(
    "span",
    [
        3,
        ["compute", "mlp", 0, 0.1],
        [None, "mlp", 0, 0.1, 0.2],
        ["compute", 3, 0, 0.1, 0.2],
        ["compute", "mlp", "first", 0.1, 0.2],
        ["compute", "mlp", None, "now", 0.2],
        ["compute", "mlp", 0, 0.1, float("nan")],
    ],
    ids=str,
)
def test_a_span_of_another_kind_is_refused(tmp_path: Path, span: object) -> None:
    path = filled(tmp_path / "out")
    good = {"request": 0, "rank": 0, "began_s": 1.5, "host": "h1", "label": "single", "warmup": False}
    spans = [["compute", "mlp", 0, 0.0, 0.1], ["scatter", "receive", None, 0.1, 0.2]]
    (path / "timeline.jsonl").write_text(json.dumps({**good, "spans": spans}) + "\n")
    assert load(path).timeline[0]["spans"] == spans
    (path / "timeline.jsonl").write_text(json.dumps({**good, "spans": [spans[0], span]}) + "\n")
    with pytest.raises(StoreError, match=r"timeline.jsonl:1: not a record \(spans\)$"):
        load(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "a: [1"),
        ("run.yaml", "just text"),
        ("manifest.json", "{"),
        ("manifest.json", "[]"),
        ("methods.json", "{}"),
        ("methods.json", "[3]"),
        ("methods.json", '[{"method": "single"}]'),
        ("links.json", "[{}]"),
        ("watch.json", '[{"label": "single"}]'),
        ("changes.json", "[3]"),
        ("control.json", "[]"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(tmp_path: Path, name: str, text: str) -> None:
    path = filled(tmp_path / "out")
    (path / name).write_text(text)
    with pytest.raises(StoreError) as caught:
        load(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=200))
def test_whatever_stands_in_records_is_read_or_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = filled(tmp_path_factory.mktemp("any") / "out")
    with (path / "records.jsonl").open("ab") as file:
        file.write(content)
    with suppress(StoreError):
        assert load(path).records == [row(0), row(1)]


def test_a_foreign_folder_and_a_newer_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run folder"):
        load(tmp_path)
    path = filled(tmp_path / "out")
    (path / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(
        StoreError, match="schema_version = 99: written by a newer program, this one reads 1 to 1"
    ) as told:
        load(path)
    assert str(path / "manifest.json") in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("version", ["null", "0", "-1", "true", '"1"', "1.5"])
def test_what_is_no_version_is_refused(tmp_path: Path, version: str) -> None:
    path = filled(tmp_path / "out")
    (path / "manifest.json").write_text(f'{{"schema_version": {version}}}')
    with pytest.raises(StoreError, match=r"schema_version = .*: this one reads 1 to 1"):
        load(path)


def test_a_folder_that_an_older_program_wrote_is_read() -> None:
    old = Path(__file__).parent / "data" / "run_v1"
    kept = json.loads((old / "summary.json").read_text())
    run = load(old)
    assert json.loads((old / "manifest.json").read_text()).keys().isdisjoint({"compute", "profile"})
    assert run.manifest["compute"] == "real" and run.timeline == []
    assert all(row["late_s"] is None for row in run.records)
    found = summary(run)
    assert found["schema_version"] >= kept["schema_version"] == 1
    assert [m["label"] for m in found["methods"]] == ["single", "sequence", "astra G=1 K=64"]
    for new, was in zip(found["methods"], kept["methods"], strict=True):
        assert new["latency_s"]["median"] == was["latency_s"]["median"] and new["latency_s"]["n"] == 6
        # Every figure of then is still there and the same; the interval is drawn in another way since.
        assert {key: new[key] for key in was if key != "latency_s"} == {
            k: v for k, v in was.items() if k != "latency_s"
        }


def test_out_must_be_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunFolder.create("tiny", tmp_path / "empty").close()
    with pytest.raises(StoreError, match="not an empty folder"):
        RunFolder.create("tiny", tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="not an empty folder"):
        RunFolder.create("tiny", tmp_path / "file")


def test_a_place_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        RunFolder.create("tiny", tmp_path / "file" / "below")
    (tmp_path / "runs").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="cannot be written"):
        RunFolder.create("tiny", runs=tmp_path / "runs")


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "/etc"])
def test_a_name_never_leaves_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="plain name"):
        RunFolder.create(name, runs=tmp_path)
    folder = RunFolder.create("tiny", tmp_path / "out")
    with pytest.raises(StoreError, match="plain name"):
        folder.log_path(name)


def test_numbers_that_are_not_finite_become_null_so_that_any_reader_of_json_reads_them(tmp_path: Path) -> None:
    with RunFolder.create("tiny", tmp_path / "out") as folder:
        folder.append_record(row(fidelity={"max_abs_error": float("nan"), "cosine": float("inf")}))
        folder.write_json("x.json", [float("nan"), 1.5])
    assert json.loads((folder.path / "x.json").read_text()) == [None, 1.5]
    found = json.loads((folder.path / "records.jsonl").read_text())
    assert found["fidelity"] == {"max_abs_error": None, "cosine": None}


def test_replacing_a_file_leaves_no_draft(tmp_path: Path) -> None:
    with RunFolder.create("tiny", tmp_path / "out") as folder:
        folder.write_json("methods.json", [1])
        folder.write_json("methods.json", [1, 2])
        with largest_file(1000), pytest.raises(StoreError, match=r"methods.json: cannot be written: File too large$"):
            folder.write_json("methods.json", "x" * 2000)
    assert json.loads((folder.path / "methods.json").read_text()) == [1, 2]
    assert sorted(path.name for path in folder.path.iterdir()) == ["methods.json", "records.jsonl", "timeline.jsonl"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_everything_belongs_to_the_user_who_typed_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "12345")
    monkeypatch.setenv("SUDO_GID", "54321")
    with RunFolder.create("tiny", runs=tmp_path / "new" / "runs") as folder:
        folder.append_record(row())
        folder.write_json("manifest.json", {})
        log = folder.log_path("h1")
        (folder.path / "late").mkdir()
        (folder.path / "late" / "made-by-a-host.log").write_text("made by root")
        (folder.path / "link").symlink_to("/etc/hostname")
        assert (log.stat().st_uid, log.stat().st_gid) == (12345, 54321)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {(12345, 54321)}
    assert tmp_path.stat().st_uid == 0 and Path("/etc/hostname").stat().st_uid == 0


def test_without_sudo_nothing_is_given_away() -> None:
    assert disk.invoking_user({}) is None
    assert disk.invoking_user({"SUDO_UID": "x", "SUDO_GID": "1"}) is None


def test_the_manifest_names_commit_and_change(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert checkout(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    assert checkout(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert checkout(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": True}
    (tmp_path / "inside").mkdir()
    assert checkout(tmp_path / "inside") is None


def test_the_manifest_says_what_the_run_stood_on() -> None:
    found = manifest(["testbed", "run", "x.yaml"], {"weights": 7}, {"shaper": "tbf"})
    assert found["schema_version"] == 1 and found["seeds"] == {"weights": 7} and found["shaper"] == "tbf"
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3])) and found["versions"]["torch"]
    assert found["sysctls"]["net.ipv4.tcp_congestion_control"]
    assert found["machine"]["cores"] >= 1 and found["machine"]["memory_bytes"] > 2**20
    json.dumps(found, allow_nan=False)

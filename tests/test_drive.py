"""A mesh is driven: devices are this process's own, called in threads in place of Ray; all else is as in a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import load_file, save_file

from agents import drive
from runtime.actor import Assignment, DeviceActor, Station
from runtime.model import load_shape
from runtime.transport.udp import UdpMesh
from tests.devices import codebooks, planned, random_input, shaken

LOCAL, TOKENS, HOSTS = "127.0.0.1", 20, 3
OPTIONS = {"groups": 2, "codewords": 16}


class Threads(SimpleNamespace):
    """The verbs of Ray that `agents.drive` uses, on futures."""

    exceptions = ray.exceptions

    def wait(self, refs: list[Future[Any]], num_returns: int, timeout: float) -> tuple[list[Future[Any]], list[Any]]:
        done, waiting = wait(refs, timeout)
        return list(done), list(waiting)

    def get(self, refs: Any) -> Any:
        return [ref.result() for ref in refs] if isinstance(refs, list) else refs.result()


class Handle:
    """As Ray's of an actor. books: the file of codebooks that is on its own host."""

    def __init__(self, actor: DeviceActor, books: Path, pool: ThreadPoolExecutor) -> None:
        self._actor, self._books, self._pool = actor, books, pool

    def __getattr__(self, name: str) -> SimpleNamespace:
        def remote(*given: Any) -> Future[Any]:
            own = [replace(one, extra=self._books) if isinstance(one, Assignment) else one for one in given]
            return self._pool.submit(getattr(self._actor, name), *own)

        return SimpleNamespace(remote=remote)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, two files of codebooks that differ in one bit of one number, and a request."""
    place = tmp_path_factory.mktemp("drive")
    folder = shaken("vit-tiny", place / "model")
    books = load_file(codebooks(folder, OPTIONS, TOKENS, place / "books"))
    books["layers.3.input"].view(torch.int32)[1, 7, 5] ^= 1
    save_file(books, place / "others")
    save_file({"input.0": random_input(load_shape(folder), TOKENS)}, place / "requests")
    return place


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[DeviceActor]]:
    monkeypatch.setattr(drive, "ray", Threads())
    threads = torch.get_num_threads()
    made = [DeviceActor(Station(f"h{i}", (LOCAL,), (), threads, bytes(32), tmp_path / "log")) for i in range(HOSTS)]
    yield made
    for each in made:
        each.stop()


@pytest.mark.parametrize(
    ("took_s", "measured"),
    [
        ([9.0, 1.0, 1.0, 1.0], 3),  # the warm-up counts in the budget, and is no sign of what comes
        ([1.0, 1.0, 1.0, 7.0, 1.0, 1.0, 1.0], 5),  # nor is one that waited
        ([1.0, 30.0, 1.0], 1),
        ([1.0, 1.0], 1),
    ],
)
def test_a_budget_ends_before_what_would_take_longer(
    monkeypatch: pytest.MonkeyPatch, took_s: list[float], measured: int
) -> None:
    now, saved = [0.0], list[bool]()

    def request(number: int) -> list[Any]:
        now[0] += took_s[number]
        return []

    monkeypatch.setattr(drive, "time", SimpleNamespace(monotonic=lambda: now[0]))
    mesh: Any = SimpleNamespace(request=request)
    done = drive.drive(mesh, len(took_s) - 1, 12.0, lambda rows, warmup: saved.append(warmup))
    assert done == measured and saved == [True] + [False] * measured


@pytest.mark.parametrize("other", [None, 0, 2])
def test_no_request_enters_where_codebooks_differ_in_a_bit(
    ready: Path, devices: list[DeviceActor], other: int | None
) -> None:
    shape, saved = load_shape(ready / "model"), list[Any]()
    plan = planned("astra", OPTIONS, shape, TOKENS, HOSTS)
    assignment = Assignment(plan, ready / "model", shape, None, ready / "books", ready / "requests", 1, 20.0, None)
    reach = [[LOCAL] * HOSTS] * HOSTS
    with ThreadPoolExecutor(2 * HOSTS) as pool:
        actors = [
            Handle(each, ready / ("others" if rank == other else "books"), pool) for rank, each in enumerate(devices)
        ]
        try:
            mesh = drive.Mesh(assignment, actors, reach, lambda host, pid: True)
            drive.drive(mesh, 1, 60.0, lambda rows, warmup: saved.extend(rows))
        except drive.DeviceLost as lost:
            assert other is not None and saved == []
            differ = {0: "h2, h3", 2: "h3"}[other]  # from the source's
            assert str(lost) == f"astra: codebooks on {differ} differ from those on h1"
            assert ", ".join(lost.hosts) == differ
        else:
            assert other is None and len(saved) == 2 * HOSTS and all(row["error"] is None for row in saved)


def test_a_device_that_nobody_waits_for_any_more_is_lost_when_it_stays_silent(
    tmp_path: Path, devices: list[DeviceActor]
) -> None:
    """Over UDP, and causal: the last device does without what the middle one has not sent, and the source is done."""
    folder, options = shaken("gpt2-tiny", tmp_path / "model"), OPTIONS | {"transport": "udp", "deadline": "20 ms"}
    books, shape = codebooks(folder, OPTIONS, TOKENS, tmp_path / "books"), load_shape(folder)
    save_file({"input.0": random_input(shape, TOKENS)}, tmp_path / "requests")
    plan, saved = planned("astra", options, shape, TOKENS, HOSTS), list[Any]()
    assignment = Assignment(plan, folder, shape, None, books, tmp_path / "requests", 1, 5.0, None)
    with ThreadPoolExecutor(3 * HOSTS) as pool:
        actors = [Handle(each, books, pool) for each in devices]
        mesh = drive.Mesh(assignment, actors, [[LOCAL] * HOSTS] * HOSTS, _for_a_minute())
        with _frozen(devices[1]), pytest.raises(drive.RequestFailed) as failed:
            drive.drive(mesh, 1, 60.0, lambda rows, warmup: saved.extend(rows))
        assert failed.value.hosts == ("h2",) and "h2 lost in astra" in str(failed.value)
        assert "no answer" in str(failed.value) and [row["rank"] for row in saved] == [0, 2]
        assert all(row["error"] is None for row in saved)
        mesh.close()


def _for_a_minute() -> Callable[[str, int | None], bool]:
    """Whether a device is there: asked by who waits for it, which must not be for ever."""
    until = time.monotonic() + 60.0

    def alive(host: str, pid: int | None) -> bool:
        assert time.monotonic() < until, "it is still waited for"
        return True

    return alive


@contextmanager
def _frozen(device: DeviceActor) -> Iterator[None]:
    """It does nothing more in a layer, and its connections stay."""
    assert isinstance(device._mesh, UdpMesh)
    with device._mesh._collecting:
        yield

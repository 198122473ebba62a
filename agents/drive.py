"""Plans out, requests out, records in: one method on one mesh of devices, by Ray calls that carry no tensor."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from agents.blame import blame, differing
from runtime.actor import Assignment, addresses_of
from runtime.errors import PeerLost

POLL_S, REPORT_S, SETUP_S = 0.2, 3.0, 300.0
Row = dict[str, Any]
Tell = Callable[[str, str], None]  # a host, and what its device does from now on


class DeviceLost(Exception):
    """A device died or fell silent in the middle of a method. `hosts` are those to blame."""

    def __init__(self, hosts: Sequence[str], message: str) -> None:
        self.hosts = tuple(hosts)
        super().__init__(message)


class Mesh:
    """The devices of one plan, joined.

    actors: Ray handles in rank order; reach[a][b]: the address at which rank b reaches rank a; alive(host, pid): is the
    device process still there (pid None: the host's Ray node), asked of the host again and again while Ray is waited
    for, because Ray itself notices a death late or never. tell: told what every device does, as far as it shows here.
    """

    def __init__(
        self,
        assignment: Assignment,
        actors: Sequence[Any],
        reach: Sequence[Sequence[str]],
        alive: Callable[[str, int | None], bool],
        tell: Tell = lambda _host, _words: None,
    ) -> None:
        self._assignment, self._actors, self._alive, self._tell = assignment, actors, alive, tell
        plan = assignment.plan
        self._hosts = [share.host for share in plan.shares]
        self._pids: dict[int, int] = {}
        self._tell_all("loading")
        loaded = self._call([actor.load.remote(assignment, rank) for rank, actor in enumerate(actors)], "loaded")
        self._pids = {rank: info["pid"] for rank, info in enumerate(loaded)}
        self._compare([info["extra"] for info in loaded])
        ports = [info["ports"] for info in loaded]
        self._call([a.join.remote(addresses_of(ports, reach, rank)) for rank, a in enumerate(actors)], "joined")

    def _tell_all(self, words: str) -> None:
        for host in self._hosts:
            self._tell(host, words)

    def _call(self, refs: list[Any], words: str) -> list[Any]:
        """All results of set-up calls, after which a device is as `words` say. Raises DeviceLost if a device dies over
        them, or does not answer in time."""
        waiting, deadline = dict(zip(refs, self._hosts, strict=True)), time.monotonic() + SETUP_S
        while waiting:
            done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=POLL_S)
            for ref in done:
                host = waiting.pop(ref)
                self._set_up(ref, host)
                self._tell(host, words)
            gone = [host for host in waiting.values() if not self._alive(host, None)]
            if gone:
                raise DeviceLost(
                    gone, f"{', '.join(gone)}: Ray ended while {self._label} was set up, see {gone[0]}.log"
                )
            if time.monotonic() > deadline:
                slow = list(waiting.values())
                raise DeviceLost(slow, f"{', '.join(slow)} did not set up {self._label} within {SETUP_S:.0f} s")
        return list(ray.get(refs))

    def _set_up(self, ref: Any, host: str) -> None:
        """Raise DeviceLost if this call of set-up failed, naming the host to blame."""
        try:
            ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, PeerLost):
                host = self._hosts[error.cause.rank]
            raise DeviceLost([host], f"{host} could not set up {self._label}: {first_line(error.cause)}") from None
        except ray.exceptions.RayError as error:  # such as Ray's own end of a process for want of memory
            raise DeviceLost([host], f"{host} lost while {self._label} was set up: {first_line(error)}") from None

    @property
    def _label(self) -> str:
        return self._assignment.plan.method

    def _compare(self, fingerprints: list[str | None]) -> None:
        """Codebooks must be the same bit for bit. Raises DeviceLost naming the hosts that differ from the source."""
        odd = differing(self._hosts, fingerprints)
        if odd:
            raise DeviceLost(odd, f"{self._label}: codebooks on {', '.join(odd)} differ from those on {self._hosts[0]}")

    def request(self, number: int) -> list[Row]:
        """Run one request; rows of all ranks, in rank order. Raises RequestFailed with the rows that did come.

        Devices wait for each other, but not where codes may be lost: once the source is done, another that is silent
        for as long as a live device may keep others waiting is lost too.
        """
        plan = self._assignment.plan
        index = number % self._assignment.inputs
        refs = {
            actor.infer.remote(number, index) if rank == plan.source else actor.take.remote(1e6): rank
            for rank, actor in enumerate(self._actors)
        }
        self._tell_all(f"computing or waiting for request {number}")
        rows: dict[int, Row] = {}
        dead: set[int] = set()
        deadline = math.inf
        while len(rows.keys() | dead) < plan.world and time.monotonic() < deadline:
            for rank, row in self._ready(refs, dead):
                if row["request"] != number:
                    row = row | {"error": f"answered request {row['request']} in place of {number}"}
                rows[rank] = row
                self._tell(self._hosts[rank], f"{'failed' if row['error'] else 'answered'} request {number}")
            dead |= {rank for rank, pid in self._pids.items() if not self._alive(self._hosts[rank], pid)}
            for rank in dead:
                self._tell(self._hosts[rank], "lost")
            if dead or any(row["error"] for row in rows.values()):
                deadline = min(deadline, time.monotonic() + REPORT_S)
            elif plan.source in rows:
                deadline = min(deadline, time.monotonic() + self._assignment.patience_s)
        if dead or len(rows) < plan.world or any(row["error"] for row in rows.values()):
            hosts, message = blame(plan, number, rows, dead)
            raise RequestFailed(hosts, message, [rows[rank] for rank in sorted(rows)])
        return [rows[rank] for rank in range(plan.world)]

    def _ready(self, refs: dict[Any, int], dead: set[int]) -> Iterator[tuple[int, Row]]:
        """Rows that have come; a call that failed marks its rank as dead. What is answered leaves `refs`."""
        done, _ = ray.wait(list(refs), num_returns=len(refs), timeout=POLL_S) if refs else ([], [])
        for ref in done:
            rank = refs.pop(ref)
            try:
                yield rank, ray.get(ref)
            except ray.exceptions.RayError:
                dead.add(rank)

    def close(self) -> None:
        """Take the devices out of the mesh; those that are gone already are left alone."""
        refs = [actor.stop.remote() for actor in self._actors]
        ray.wait(refs, num_returns=len(refs), timeout=REPORT_S)


class RequestFailed(DeviceLost):
    """A request did not end well; `rows` are the records that came all the same."""

    def __init__(self, hosts: Sequence[str], message: str, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        super().__init__(hosts, message)


def drive(mesh: Mesh, repeats: int, budget_s: float, save: Callable[[list[Row], bool], None]) -> int:
    """One warm-up request, then up to `repeats` within the budget, at least one; each saved before the next begins.

    save(rows, warmup) also gets the rows of a request that failed. Returns how many were measured.
    Raises RequestFailed.
    """
    began, took = time.monotonic(), list[float]()
    for number in range(1 + repeats):
        started = time.monotonic()
        try:
            rows = mesh.request(number)
        except RequestFailed as failure:
            save(failure.rows, number == 0)
            raise
        save(rows, number == 0)
        now = time.monotonic()
        if number > 0:
            insort(took, now - started)
            # The median: one that waited long, as TCP does where much is lost, says little about the next.
            if now - began + took[len(took) // 2] > budget_s:
                return number
    return repeats


def first_line(error: BaseException | None) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""What a message costs the processes that send and take it, measured on this machine: the runtime's own sockets, over
loopback, where the network takes next to nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

import torch

from runtime.transport.tcp import TcpMesh
from runtime.transport.wire import TOKEN_BYTES, Kind
from testbed.predict import machine
from testbed.predict.work import EMULATED, KINDS, LOOPBACK, Costs
from testbed.quantities import span
from testbed.tables import duration

_SMALL_BYTES, _LARGE_BYTES = 64, 48 * 1024  # both within what a socket takes at once
_REPEATS, _WARM_UP = 150, 20
_LOCAL = "127.0.0.1"


def measure() -> Costs:
    """Of messages and frames between emulated hosts where this machine can make some, else of messages over loopback.

    Raises PeerLost.
    """
    return machine.measure() or over_loopback()


def hold(kept: Costs, given: Costs | None) -> bool:
    """Whether predictions made with the costs `kept` are those that `given` ones would make, or, None, measured ones:
    costs of loopback only where this machine can measure no others."""
    if given is not None:
        return kept.kind == given.kind
    return kept.kind == EMULATED or (kept.kind == LOOPBACK and machine.measure() is None)


def told(costs: Iterable[Costs]) -> list[str]:
    """ "a message costs 93 us, as measured ...": what predictions rest on, for people; a line for each kind."""
    found, lines = list(dict.fromkeys(costs)), list[str]()
    for kind, how in KINDS.items():
        own = [one for one in found if one.kind == kind]
        if not own:
            continue
        whole = [one.sending_s(0) + one.receiving_s(0) for one in (each.alone() for each in own)]
        words = f"a message costs {span(whole, duration)}, {how}"
        if shared := [one for one in own if one.cores and one.packet_s]:
            cores, rates = (span(values, lambda value: f"{value:.0f}") for values in (
                [float(one.cores or 1) for one in shared], [(one.cores or 1) / one.line_s(1, 1, 0) for one in shared]
            ))  # fmt: skip
            words += f"; all links share {cores} cores, which carry {rates} frames a second"
        lines.append(words)
    return lines


def over_loopback() -> Costs:
    """Medians of messages sent and answered between two meshes: a tenth of a second. Raises PeerLost.

    A message's way through the kernel and the waking of who waits for it are counted as the receiver's. congestion
    control is the machine's own: nothing is congested here.
    """
    token = secrets.token_bytes(TOKEN_BYTES)
    meshes = [TcpMesh(rank, 2, token, [_LOCAL], 10.0, None) for rank in range(2)]
    peers = {rank: (_LOCAL, mesh.ports[_LOCAL]) for rank, mesh in enumerate(meshes)}
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda mesh: mesh.join(peers), meshes))
            found = [_times(pool, meshes, size) for size in (_SMALL_BYTES, _LARGE_BYTES)]
    finally:
        for mesh in meshes:
            mesh.close()
    (send_s, whole_s), (_, large_s) = found
    per_byte_s = max(0.0, large_s - whole_s) / (_LARGE_BYTES - _SMALL_BYTES) / 2  # half of it on either side
    return Costs(send_s, max(0.0, whole_s - send_s), per_byte_s, kind=LOOPBACK)


def _times(pool: ThreadPoolExecutor, meshes: list[TcpMesh], size_bytes: int) -> tuple[float, float]:
    """Seconds of handing over one message, and until it has been taken: half of a message and its answer."""
    tensor, count = torch.zeros(size_bytes, dtype=torch.uint8), _REPEATS + _WARM_UP

    def answer() -> None:
        for number in range(count):
            meshes[1].send(0, Kind.EXCHANGE, number, 0, meshes[1].receive(0, Kind.EXCHANGE, number, 0))

    answering, sends_s, halves_s = pool.submit(answer), [], []
    for number in range(count):
        began_s = perf_counter()
        meshes[0].send(1, Kind.EXCHANGE, number, 0, tensor)
        sent_s = perf_counter()
        meshes[0].receive(1, Kind.EXCHANGE, number, 0)
        sends_s.append(sent_s - began_s)
        halves_s.append((perf_counter() - began_s) / 2)
    answering.result()
    return median(sends_s[_WARM_UP:]), median(halves_s[_WARM_UP:])

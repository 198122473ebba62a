"""One device of a method by itself: what the others send it was recorded, what it sends goes nowhere.

So one machine can time what one of many devices does, with nobody else on its cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from runtime import methods
from runtime.device import Device
from runtime.model import Folder
from runtime.plan import Plan
from runtime.stages import Timed
from runtime.transport import Traffic, loopback

PATIENCE_S = 600.0


class Recorder:
    """A transport that keeps what it receives."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.received = inner, deque[Tensor]()
        self.rank, self.world, self.traffic = inner.rank, inner.world, Traffic()
        self.send, self.flush, self.close = inner.send, inner.flush, inner.close
        self.header_at_s = 0.0

    def receive(self, *arguments: Any) -> Tensor:
        """See `Transport.receive`."""
        self.received.append(self._inner.receive(*arguments))
        self.header_at_s = self._inner.header_at_s
        return self.received[-1]


class Player:
    """A transport that hands out what was recorded, in the same order, over and over, and drops what is sent."""

    header_at_s = 0.0

    def __init__(self, recorder: Recorder) -> None:
        self.rank, self.world, self.traffic = recorder.rank, recorder.world, Traffic()
        self._frames = list(recorder.received)
        self._next = deque(self._frames)

    def receive(self, *_: Any) -> Tensor:
        """See `Transport.receive`."""
        self.header_at_s = perf_counter()
        if not self._next:
            self._next.extend(self._frames)
        return self._next.popleft()

    def send(self, *_: Any) -> None:
        """See `Transport.send`."""

    def flush(self) -> None:
        """See `Transport.flush`."""

    def close(self) -> None:
        """See `Transport.close`."""


def rehearsed(plan: Plan, folder: Path, extra: Path | None, raw: Tensor, place: str = "cpu") -> Sequence[Device]:
    """Every device of a plan, in rank order, after one request together; from now on each is by itself.

    place: of torch, "cpu" or "cuda", for all of them.
    """
    kind = methods.load(plan.method)
    recorders = [Recorder(one) for one in loopback.mesh(plan.world, PATIENCE_S)]
    settle = torch.cuda.synchronize if place == "cuda" else None
    weights = Folder(folder, place)
    made = [kind(weights, plan, rank, extra, Timed(settle)) for rank in range(plan.world)]
    devices = [Device(method, recorder) for method, recorder in zip(made, recorders, strict=True)]

    def take_part(device: Device) -> None:
        torch.set_grad_enabled(False)
        try:
            once(device, raw)
        except Exception:
            device.transport.close()  # or the others would wait for it
            raise

    with ThreadPoolExecutor(plan.world) as pool:
        for done in as_completed([pool.submit(take_part, device) for device in devices]):
            done.result()
    for device, recorder in zip(devices, recorders, strict=True):
        device.transport = Player(recorder)
    return devices


def once(device: Device, raw: Tensor) -> None:
    """One more request on one device alone; `device.stages.spans` then tells where its time went."""
    if device.rank == device.plan.source:
        device.infer(0, raw)
    else:
        device.serve(0)

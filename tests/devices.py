"""Runs a whole request through `Device`s in threads: the shortest way to a method's door without processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.cluster import Cluster
from agents.place import place
from runtime import families, methods
from runtime.collectives import Exchange
from runtime.device import Device
from runtime.model import WEIGHTS, Folder, load_shape
from runtime.plan import Plan
from runtime.record import Record
from runtime.shape import Shape
from runtime.transport import Transport, loopback


def planned(method: str, options: Mapping[str, Any], shape: Shape, tokens: int, devices: int) -> Plan:
    """The plan of `place` for hosts h1, h2, ..."""
    return place(method, options, shape, tokens, Cluster(tuple(f"h{i + 1}" for i in range(devices))))


def request(
    folder: Path, plan: Plan, raw: Tensor, extra: Path | None = None, mesh: Sequence[Transport] | None = None,
    exchange: type[Exchange] = Exchange,
) -> tuple[Tensor, list[Record]]:  # fmt: skip
    """Result and records, in rank order, of one request on fresh devices."""
    torch.set_grad_enabled(False)
    transports = mesh or loopback.mesh(plan.world, 10.0)
    kind = methods.load(plan.method)
    made = [kind(Folder(folder), plan, rank, extra) for rank in range(plan.world)]
    devices = [Device(method, transports[rank], exchange=exchange) for rank, method in enumerate(made)]

    def serve(device: Device) -> Record:
        torch.set_grad_enabled(False)
        try:
            return device.serve(0)
        finally:
            device.transport.flush()

    with ThreadPoolExecutor(plan.world) as pool:
        served = [pool.submit(serve, device) for device in devices[1:]]
        result, record = devices[0].infer(0, raw)
        return result, [record, *(one.result() for one in served)]


def shaken(preset: str, folder: Path, seed: int = 0) -> Path:
    """A converted preset whose biases and norms are random too: as transformers starts them (0 and 1) they hide
    mistakes such as a bias that is added once per device."""
    families.convert(preset, "random", seed, folder)
    tensors = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(tensors.items()):
        if name.endswith(".bias") or "norm" in name:
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, folder / WEIGHTS)
    return folder


def random_input(shape: Shape, tokens: int, seed: int = 1) -> Tensor:
    """Noise of the right form: raw patches or token ids."""
    generator = torch.Generator().manual_seed(seed)
    if shape.embedding == "patches":
        pixels = shape.patch * shape.patch * shape.channels
        return torch.randint(0, 256, (tokens, pixels), generator=generator).to(torch.uint8)
    return torch.randint(0, shape.vocabulary, (tokens,), generator=generator)


def codebooks(folder: Path, options: Mapping[str, Any], tokens: int, out: Path) -> Path:
    """astra's codebooks for a model, from random inputs."""
    kind = methods.load("astra")
    shape = load_shape(folder)
    torch.set_grad_enabled(False)
    kind.prepare(folder, kind.Options(**options), [random_input(shape, tokens, 100 + i) for i in range(4)], out)
    return out

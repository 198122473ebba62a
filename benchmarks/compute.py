"""What one device computes, against one device alone: ViT-Base, 1024 tokens, one thread, methods in turns with single.

    .venv/bin/python benchmarks/compute.py [--tokens 1024] [--devices 4] [--repeats 5]

Rank 0 of each method runs alone, without a network: the frames that it would receive were recorded in a run of all
devices in threads, and are handed to it at once. Its time is arithmetic, coding and packing included. Target for astra
with one group on 4 devices: at most 0.32 of single's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agents.cluster import Cluster  # noqa: E402
from agents.place import place  # noqa: E402
from runtime import families, methods  # noqa: E402
from runtime.device import Device  # noqa: E402
from runtime.model import load_shape  # noqa: E402
from testbed.manifest import machine  # noqa: E402
from testbed.rehearse import rehearsed  # noqa: E402

CASES: list[tuple[str, dict[str, Any]]] = [
    ("tensor", {}),
    ("sequence", {}),
    ("block", {"joins": 1}),
    ("pipeline", {}),
    ("astra", {"groups": 1}),
    ("astra", {"groups": 32}),
]


def alone(device: Device, raw: Tensor) -> float:
    """Seconds of arithmetic and coding in one request of the source device."""
    _, record = device.infer(0, raw)
    return record.compute_s + record.code_s


def prepared(folder: Path, case: tuple[str, dict[str, Any]], raw: Tensor, devices: int, extra: Path) -> Device:
    """Rank 0 of a method, with what the others send it recorded."""
    method, options = case
    kind, shape = methods.load(method), load_shape(folder)
    plan = place(method, options, shape, len(raw), Cluster(tuple(f"h{i}" for i in range(devices))))
    if wanted := kind.sample_tokens(kind.Options(**options)):
        kind.prepare(folder, kind.Options(**options), [raw] * -(-wanted // len(raw)), extra)
    return rehearsed(plan, folder, extra, raw)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit-base")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        shape = families.convert(given.model, "random", 0, folder)
        raw = torch.randint(0, 256, (given.tokens, shape.patch**2 * shape.channels)).to(torch.uint8)
        single = prepared(folder, ("single", {}), raw, 1, Path())
        print(f"{given.model}, {given.tokens} tokens, {given.devices} devices, one thread; medians of {given.repeats}")
        for case in CASES:
            device = prepared(folder, case, raw, given.devices, Path(scratch) / "extra")
            pairs = [(alone(device, raw), alone(single, raw)) for _ in range(given.repeats)]
            own, whole = (statistics.median(times) for times in zip(*pairs, strict=True))
            ratios = sorted(a / b for a, b in pairs)
            spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
            name = f"{case[0]} {case[1] or ''}"
            print(f"{name:24} {own:.3f} s  of single's {whole:.3f} s: {statistics.median(ratios):.3f}  ({spread})")


if __name__ == "__main__":
    main()

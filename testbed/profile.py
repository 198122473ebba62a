"""`testbed profile FILE`: time every stage of FILE's methods on this machine, one device at a time, into a profile."""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from agents.cluster import Cluster
from agents.place import place
from runtime.device import Device
from runtime.profile import Entry, Profile, Seconds
from testbed import material, profiles
from testbed.manifest import machine
from testbed.material import Material
from testbed.rehearse import once, rehearsed
from testbed.topology import MethodSpec, Topology

ALIKE = 1.5  # a stage whose slowest layer takes no more than this times the median is one figure for all layers


def profile(topology: Topology, name: str, threads: int, repeats: int, say: Callable[[str], None]) -> Profile:
    """Medians over `repeats` requests of every stage, each device alone on `threads` threads of torch. Raises BadModel.

    Times are those of this machine, whole: no CPU share of the file holds here.
    """
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    run = topology.run
    collected = material.collect(run)
    with tempfile.TemporaryDirectory() as folder:
        ready = material.gather(run, collected, Path(folder) / "requests.safetensors", say)
        entries = []
        for spec in run.methods:
            entries.append(_entry(spec, ready, collected.raw[0], topology, repeats))
            say(f"{spec.label}: {show(entries[-1], ready.shape.layers)}")
    return Profile(name, ready.shape.layers, ready.shape.width, tuple(entries))


def _entry(spec: MethodSpec, ready: Material, raw: Tensor, topology: Topology, repeats: int) -> Entry:
    names = [host.name for host in topology.hosts]
    source = topology.run.source
    cluster = Cluster((source, *(name for name in names if name != source)))
    plan = place(spec.method, spec.options, ready.shape, topology.run.tokens, cluster)
    assert ready.folder is not None, "a profile is of what is computed"
    devices = rehearsed(plan, ready.folder, ready.extras.get(spec.label), raw)
    ranks = tuple(stages(device, raw, repeats) for device in devices)
    return Entry(spec.method, dict(spec.options), topology.run.tokens, plan.world, ranks)


def stages(device: Device, raw: Tensor, repeats: int) -> Mapping[str, Seconds]:
    """Median seconds of each stage of computing and coding on one device: one figure, or one per layer of the model."""
    seen: dict[str, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(1 + repeats):
        once(device, raw)
        for kind, name, layer, _, seconds in device.stages.spans if number else ():
            if kind in ("compute", "code"):
                seen[name][layer].append(seconds)
    return {name: _figures(by_layer, device.method.model.shape.layers) for name, by_layer in seen.items()}


def _figures(by_layer: Mapping[int | None, list[float]], layers: int) -> Seconds:
    middles = {layer: median(found) for layer, found in by_layer.items()}
    typical = median(middles.values())
    if None in middles or max(middles.values()) <= ALIKE * typical:
        return typical
    return tuple(middles.get(layer, 0.0) for layer in range(layers))


def show(entry: Entry, layers: int) -> str:
    """One line for people."""
    return f"{entry.whole_s(layers) * 1e3:.4g} ms on the slowest of {entry.devices} devices"


def main(topology: Topology, out: Path, options: tuple[int, int], say: Callable[[str], None]) -> None:
    """Measure and write. options: threads, repeats. Raises OSError, BadModel."""
    threads, repeats = options
    found = profile(topology, out.stem, threads, repeats, say)
    about = (
        f"{topology.run.model}, {topology.run.tokens} tokens, fp32, {threads} thread(s) of torch, one device at a "
        f"time; medians of {repeats} requests"
    )
    profiles.write(out, found, about, machine())
    say(f"written: {out}")


if __name__ == "__main__":
    from testbed.cli import main as cli

    cli(["profile", *sys.argv[1:]])

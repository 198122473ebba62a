"""`testbed profile FILE`: time every stage of FILE's methods on this machine, one device at a time, into a profile."""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from agents.cluster import Cluster
from agents.place import place
from runtime.device import Device
from runtime.profile import Entry, Profile, ProfileError, Seconds
from testbed import material, profiles
from testbed.manifest import machine
from testbed.material import Material
from testbed.rehearse import once, rehearsed
from testbed.topology import MethodSpec, Topology

ALIKE = 1.5  # a stage whose layers all take the median, or this many times less or more, is one figure for all


@dataclass(frozen=True)
class How:
    """device: of torch, "cpu" or "cuda"; threads: of torch on the CPU; repeats: after one request to warm up."""

    device: str = "cpu"
    threads: int = 1
    repeats: int = 5

    @property
    def words(self) -> str:
        """What ran, for people."""
        if self.device == "cuda":
            return f"{torch.cuda.get_device_name()}"
        return f"{self.threads} thread{'s' if self.threads > 1 else ''} of the CPU"


def profile(topology: Topology, name: str, how: How, say: Callable[[str], None]) -> Profile:
    """Medians over some requests of every stage, each device alone. Raises BadModel, ProfileError.

    Times are those of this machine, whole: no CPU share of the file holds here.
    """
    if topology.run.compute is not None:
        text = "so that nothing is computed here that could be timed; a profile is made with run.compute: real"
        raise ProfileError(f"{topology.name}: run.compute replays {topology.run.compute}, {text}")
    if topology.run.generate is not None:
        raise ProfileError(f"{topology.name}: run.generate: a profile is of the prompt alone, leave this out for it")
    if how.device == "cuda" and not torch.cuda.is_available():
        raise ProfileError("device cuda: torch finds no GPU here; use cpu, or run this on a machine that has one")
    torch.set_num_threads(how.threads)
    torch.set_grad_enabled(False)
    run = topology.run
    collected = material.collect(run)
    with tempfile.TemporaryDirectory() as folder:
        ready = material.gather(run, collected, Path(folder) / "requests.safetensors", say)
        entries = []
        for spec in run.methods:
            entries.append(_entry(spec, ready, collected.raw[0], topology, how))
            say(f"{spec.label}: {show(entries[-1], ready.shape.layers)}")
    return Profile(name, ready.shape.layers, ready.shape.width, tuple(entries))


def _entry(spec: MethodSpec, ready: Material, raw: Tensor, topology: Topology, how: How) -> Entry:
    names = [host.name for host in topology.hosts]
    source = topology.run.source
    cluster = Cluster((source, *(name for name in names if name != source)))
    plan = place(spec.method, spec.options, ready.shape, topology.run.tokens, cluster)
    assert ready.folder is not None, "a profile is of what is computed"
    devices = rehearsed(plan, ready.folder, ready.extras.get(spec.label), raw, how.device)
    ranks = tuple(stages(device, raw, how.repeats) for device in devices)
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
    if None in middles or typical / ALIKE <= min(middles.values()) <= max(middles.values()) <= ALIKE * typical:
        return typical
    return tuple(middles.get(layer, 0.0) for layer in range(layers))


def show(entry: Entry, layers: int) -> str:
    """One line for people."""
    return f"{entry.whole_s(layers) * 1e3:.4g} ms on the slowest of {entry.devices} devices"


def main(topology: Topology, out: Path, how: How, say: Callable[[str], None]) -> None:
    """Measure and write. Raises BadModel, ProfileError."""
    found = profile(topology, out.stem, how, say)
    about = (
        f"{topology.run.model}, {topology.run.tokens} tokens, fp32, one device at a time on {how.words}; "
        f"medians of {how.repeats} requests{_shares(topology)}"
    )
    try:
        profiles.write(out, found, about, machine())
    except OSError as error:
        raise ProfileError(f"{out}: cannot be written: {error.strerror}") from None
    say(f"written: {out}")


def _shares(topology: Topology) -> str:
    """That the CPU shares of the file did not hold, where it has any."""
    if all(host.cpu is None for host in topology.hosts):
        return ""
    return "; the CPU shares of the file's hosts did not hold: times are of whole cores"


if __name__ == "__main__":
    from testbed.cli import main as cli

    cli(["profile", *sys.argv[1:]])

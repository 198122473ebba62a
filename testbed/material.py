"""What a run needs before its network is up: the converted model, its inputs with their references, extra files."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from runtime import methods
from runtime.decoding import continued
from runtime.errors import BadModel
from runtime.model import load, load_shape
from runtime.plan import Generation
from runtime.profile import Profile
from runtime.shape import Shape
from testbed import inputs, models, profiles
from testbed.prepare import folder as prepared
from testbed.prepare.folder import Prepared
from testbed.topology import MethodSpec, RunSpec

# Requests go round them: each costs a one-device pass for its reference. Of a prepared model, which is small and is
# judged by its answers, all that are held out.
DISTINCT_INPUTS = 8
FORMAT = 1  # part of the name of a cached file: raise it when what `prepare` writes changes


@dataclass(frozen=True)
class Material:
    """folder: the converted model; requests: a file of `input.<i>`, `reference.<i>`, where known `target.<i>`, and
    where tokens are generated `tokens.<i>` and `leads.<i>`, see `runtime.decoding.continued`; extras: by method label.

    Where computing is replayed there is a profile, and neither folder, references nor extras.
    reference_s: seconds of one request's prompt on this machine, unlimited, or of the longest one by the profile;
    samples_seen: some requests were among the samples; prepared: the folder of `testbed prepare` that the model is of.
    """

    folder: Path | None
    shape: Shape
    profile: Profile | None
    requests: Path
    inputs: int
    extras: dict[str, Path]
    reference_s: float
    samples_seen: bool
    prepared: Prepared | None = None


@dataclass(frozen=True)
class Collected:
    """folder: the converted model; raw: inputs of requests; samples: other ones, from which methods prepare;
    wanted: how many of them each method wants, by label. With a profile: neither folder nor samples. prepared: as in
    `Material`. targets: what would be right for each of raw, where that is known."""

    folder: Path | None
    shape: Shape
    profile: Profile | None
    raw: list[Tensor]
    samples: list[Tensor]
    wanted: dict[str, int]
    prepared: Prepared | None = None
    targets: Sequence[Tensor] = ()


def collect(run: RunSpec) -> Collected:
    """Convert the model, or find it in the cache, and read the inputs. Raises BadModel, BadInputs, TopologyError."""
    count = min(1 + run.repeats, DISTINCT_INPUTS)
    if run.compute is not None:
        shape = models.shape(run.model, run.weights, run.seed)
        raw = inputs.requests(run, shape, None, count)
        return Collected(None, shape, profiles.read(Path(run.compute)), raw, [], {})
    folder, found = models.prepared(run), prepared.of(run.model, run.weights)
    shape = load_shape(folder)
    there = {spec.label for spec in run.methods if found is not None and found.extra(spec) is not None}
    wanted = {s.label: 0 if s.label in there else -(-_sample_tokens(s) // run.tokens) for s in run.methods}
    most = max(wanted.values())
    if found is not None:
        found.verify()
        if run.inputs == inputs.SAMPLE:
            raw, targets = found.inputs(run.tokens, run.seed, min(1 + run.repeats, found.held_out))
            samples = found.samples(run.tokens, run.seed, most)
            return Collected(folder, shape, None, raw, samples, wanted, found, targets)
    raw = inputs.requests(run, shape, folder, count + most)
    return Collected(folder, shape, None, raw[:count], raw[count:], wanted, found)


def gather(run: RunSpec, collected: Collected, requests: Path, say: Callable[[str], None]) -> Material:
    """Compute references and prepare what methods need, from the cache where it was done before. Raises BadModel."""
    folder, raw, samples, shape = collected.folder, collected.raw, collected.samples, collected.shape
    if folder is None:
        return _replayed(run, collected, requests, say)
    found = collected.prepared
    held_out = found is not None and run.inputs == inputs.SAMPLE
    said = found.says() if found is not None and held_out else inputs.says(run, shape, folder)
    say(f"model {run.model}, {run.weights} weights; {said}")
    reference_s = _write_requests(folder, collected, requests, run.generate)
    wanted = [(spec, collected.wanted[spec.label]) for spec in run.methods if collected.wanted[spec.label]]
    try:
        extras = {spec.label: _extra(spec, folder, samples[:count], say) for spec, count in wanted}
    except OSError as error:
        raise BadModel(f"{error.filename}: cannot be kept ({error.strerror}); set XDG_CACHE_HOME") from None
    if found is not None:
        extras |= {spec.label: path for spec in run.methods if (path := found.extra(spec)) is not None}
    seen = any(torch.equal(one, sample) for one in raw for sample in samples)
    return Material(folder, shape, None, requests, len(raw), extras, reference_s, seen, found)


def _replayed(run: RunSpec, collected: Collected, requests: Path, say: Callable[[str], None]) -> Material:
    """Inputs alone: what is not computed has no reference."""
    profile, raw = collected.profile, collected.raw
    assert profile is not None, "without a profile there is a folder"
    say(f"model {run.model}: compute replayed from {profile.name}; {inputs.says(run, collected.shape, None)}")
    save_file({f"input.{i}": one for i, one in enumerate(raw)}, requests)
    longest_s = max(entry.whole_s(profile.layers) for entry in profile.entries)
    return Material(None, collected.shape, profile, requests, len(raw), {}, longest_s, False)


def _write_requests(folder: Path, collected: Collected, out: Path, how: Generation | None) -> float:
    """Inputs, what would be right, where known, and what one device computes and generates: the truth of every run.

    Returns seconds of one input, loading the model included and what follows a prompt left out.
    """
    raw = collected.raw
    tensors = {f"input.{i}": one for i, one in enumerate(raw)}
    tensors |= {f"target.{i}": one for i, one in enumerate(collected.targets)}
    try:
        with torch.inference_mode():
            began = time.monotonic()
            model = load(folder)
            tensors |= {f"reference.{i}": model(one).clone() for i, one in enumerate(raw)}
            reference_s = (time.monotonic() - began) / len(raw)
            for i, (tokens, leads) in enumerate(continued(model, one, how) for one in raw if how is not None):
                tensors |= {f"tokens.{i}": torch.tensor(tokens), f"leads.{i}": torch.tensor(leads)}
    except RuntimeError as error:  # what torch raises when memory is out
        raise BadModel(f"one device alone cannot compute the reference: {str(error).splitlines()[0]}") from error
    save_file(tensors, out)
    return reference_s


def _sample_tokens(spec: MethodSpec) -> int:
    kind = methods.load(spec.method)
    return kind.sample_tokens(kind.Options(**spec.options))


def _extra(spec: MethodSpec, folder: Path, samples: Sequence[Tensor], say: Callable[[str], None]) -> Path:
    """The file that a method's `prepare` writes for this model and these samples."""
    kind = methods.load(spec.method)
    options = kind.Options(**spec.options)
    key = hashlib.sha256(
        json.dumps([FORMAT, spec.method, models.identity(folder), kind.prepared_from(options)]).encode()
    )
    for sample in samples:
        key.update(sample.numpy().tobytes())
    path = models.cache_folder().parent / "extras" / f"{key.hexdigest()[:24]}.safetensors"
    if not path.exists():
        say(f"{spec.label}: preparing from the model's activations on {len(samples)} sample inputs")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        with torch.inference_mode():
            kind.prepare(folder, options, samples, draft)
        draft.replace(path)
    return path

"""Is a topology file sound, and what does it imply? Needs no root, starts nothing: `python -m testbed.check FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime import families, methods
from runtime.errors import BadModel
from runtime.shape import Shape
from testbed import topology as topologies
from testbed import yamlfile
from testbed.draw import draw
from testbed.topology import Topology, TopologyError


def problems(topology: Topology, path: str | Path) -> list[str]:
    """What the model of `topology`, loaded from `path`, makes impossible: one full line each, none if it can run.

    The model's configuration is read, not its weights: a name that is no model, more tokens than it has positions for,
    methods that are not defined on it with so many devices, an input that is not there.
    """
    run = topology.run
    document = yamlfile.read(Path(path))
    if run.inputs != "sample" and not Path(run.inputs).expanduser().exists():
        document.problem(("run", "inputs"), "there is no such folder or file; or use inputs: sample", run.inputs)
    try:
        shape = families.describe(run.model, run.weights)
    except BadModel as error:
        document.problem(("run", "model"), str(error), run.model)
        return document.problems
    if shape.max_tokens is not None and run.tokens > shape.max_tokens:
        document.problem(("run", "tokens"), f"{run.model} has positions for 1 to {shape.max_tokens}", run.tokens)
    devices = len(topology.hosts)
    if run.tokens < devices:
        document.problem(("run", "tokens"), f"{devices} devices need at least one token each", run.tokens)
    for index, spec in enumerate(run.methods):
        method = methods.load(spec.method)
        refusal = method.refuse(shape, method.Options(**spec.options), devices)
        if refusal is not None:
            document.problem(("run", "methods", index), refusal, spec.label)
    return document.problems


def load(path: str | Path) -> Topology:
    """A topology that is sound and whose model can run as it asks. Raises TopologyError with all problems."""
    topology = topologies.load(path)
    found = problems(topology, path)
    if found:
        raise TopologyError(found)
    return topology


def check(path: str | Path) -> str:
    """The drawing of a sound file and what would run on it. Raises TopologyError with all problems."""
    topology = load(path)
    shape = families.describe(topology.run.model, topology.run.weights)
    return f"{draw(topology)}\n\n{_run(topology, shape)}"


def _run(topology: Topology, shape: Shape) -> str:
    run = topology.run
    size = f"{shape.family}, {shape.layers} layers of width {shape.width}, {shape.heads} heads"
    labels = ", ".join(spec.label for spec in run.methods)
    return "\n".join(
        [
            f"model   {run.model} ({size}), {run.weights} weights, {run.tokens} tokens, requests enter at {run.source}",
            f"methods {labels}",
            f"        up to {run.repeats} requests each, within {run.budget_s:g} s",
        ]
    )


if __name__ == "__main__":
    from testbed.cli import main

    main(["check", *sys.argv[1:]])

"""Is a topology file sound, and what does it imply? Needs no root, starts nothing: `python -m testbed.check FILE`."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path
from typing import Any

from runtime import families, methods
from runtime.errors import BadModel
from runtime.shape import Shape, grid, is_strip
from testbed import schema
from testbed.door import settled
from testbed.draw import draw
from testbed.schema import Draft
from testbed.shape import refusal
from testbed.topology import Topology, TopologyError
from testbed.yamlfile import Place


def problems(path: str | Path) -> list[str]:
    """All that is wrong with a file, one full line each; none if it can run on a machine that can do what it asks.

    Its own mistakes; links that no shaper makes; and, from the model's configuration, not its weights: a name that is
    no model, more tokens than it has positions for, methods not defined on it with so many devices, inputs that it
    cannot read. Raises TopologyError if it is no YAML.
    """
    return _examined(path).document.problems


def load(path: str | Path) -> Topology:
    """A topology that is sound and whose model can run as it asks. Raises TopologyError with all problems."""
    return _sound(_examined(path))


def makeable(path: str | Path) -> Topology:
    """A topology that is sound and whose links can be made; its model is not looked at. Raises TopologyError."""
    return _sound(_refuse_links(schema.draft(Path(path))))


def check(path: str | Path) -> str:
    """The drawing of a sound file and what would run on it. Raises TopologyError with all problems."""
    topology = load(path)
    shape = families.describe(topology.run.model, topology.run.weights)
    return f"{draw(topology)}\n\n{_run(topology, shape)}"


def _examined(path: str | Path) -> Draft:
    """A draft with what is impossible about its sound parts noted, too."""
    draft = _refuse_links(schema.draft(Path(path)))
    _examine_run(draft)
    return draft


def _sound(draft: Draft) -> Topology:
    if draft.topology is None or draft.document.found:
        raise TopologyError(draft.document.problems)
    return draft.topology


def _examine_run(draft: Draft) -> None:
    model, weights = _said(draft, "model"), _said(draft, "weights", "random")
    inputs = _said(draft, "inputs", "sample")
    if inputs not in (None, "sample") and not os.path.exists(settled(inputs)):
        place = ("run", "inputs")
        draft.document.problem(place, "there is no such folder or file; or use inputs: sample", inputs)
    if model is None or weights is None:
        return
    try:
        found = families.describe(settled(model), weights)
    except BadModel as error:
        draft.document.problem(("run", "model"), str(error), model)
        return
    _examine_inputs(draft, found)
    _examine_tokens(draft, found)
    _examine_methods(draft, found)


def _said(draft: Draft, key: str, default: Any = None) -> Any:
    """What the file says of the run's `key`, as it was written; None if that is wrong."""
    return None if draft.document.wrong("run", key) else draft.document.at(("run", key), default)


def _refuse_links(draft: Draft) -> Draft:
    """What no shaper makes of a link is a problem where it is written: once if that is in the defaults."""
    for index, link in draft.links.items():
        for quantity, allowed in refusal(link).items():
            place: Place = ("links", index, quantity)
            if draft.document.at(place, None) is None:
                place = ("defaults", "link", quantity)
            if not draft.document.wrong(*place):
                draft.document.problem(place, allowed, draft.document.at(place, None))
    return draft


def _examine_inputs(draft: Draft, shape: Shape) -> None:
    from testbed import inputs  # loads torch, which describing the model needed too

    given = _said(draft, "inputs", "sample")
    why = None if given is None else inputs.refusal(settled(given), shape)
    if why is not None:
        draft.document.problem(("run", "inputs"), why, given)


def _examine_tokens(draft: Draft, shape: Shape) -> None:
    tokens, place = _said(draft, "tokens"), ("run", "tokens")
    if tokens is None:
        return
    if shape.max_tokens is not None and tokens > shape.max_tokens:
        draft.document.problem(place, f"{_said(draft, 'model')} has positions for 1 to {shape.max_tokens}", tokens)
    if draft.devices is not None and tokens < draft.devices:
        draft.document.problem(place, f"{draft.devices} devices need at least one token each", tokens)
    if shape.embedding == "patches" and is_strip(tokens):
        rows, columns = grid(tokens)
        below = next(fewer for fewer in range(tokens, 0, -1) if not is_strip(fewer))
        above = next(more for more in count(tokens) if not is_strip(more))
        draft.document.problem(
            place, f"{rows} x {columns} patches are a strip, no picture: give {_grid(below)} or {_grid(above)}", tokens
        )


def _grid(tokens: int) -> str:
    return "{} ({} x {})".format(tokens, *grid(tokens))


def _examine_methods(draft: Draft, shape: Shape) -> None:
    if draft.devices is None:
        return
    for index, spec in draft.methods.items():
        method = methods.load(spec.method)
        why = method.refuse(shape, method.Options(**spec.options), draft.devices)
        if why is not None:
            draft.document.problem(("run", "methods", index), why, spec.label)


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

"""Is a topology file sound, and what does it imply? Needs no root, starts nothing: `python -m testbed.check FILE`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from agents.cluster import Cluster
from agents.place import misfit
from agents.place import place as place_on
from runtime import methods
from runtime.errors import BadModel
from runtime.profile import ProfileError
from runtime.shape import Shape, grid, is_strip
from testbed import cables, envelope, models, schema
from testbed.door import settled
from testbed.draw import draw
from testbed.envelope import SHAPERS, Unfit
from testbed.schema import Draft
from testbed.topology import Lane, RunSpec, Switch, Topology, TopologyError
from testbed.yamlfile import Place

DIAGRAMS = {".svg": "svg", ".mmd": "mermaid"}  # functions of testbed.diagram


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
    shape = models.shape(topology.run.model, topology.run.weights, topology.run.seed)
    return "\n".join([draw(topology), "", *_shapers(topology), *_run(topology, shape)])


def draw_to(path: str | Path, target: str | Path) -> None:
    """Write a sound file's network as a picture, `target` ends in .svg, or as Mermaid, .mmd; what is there is replaced.

    Raises TopologyError with all problems of the file, or one line about `target`.
    """
    target = Path(target)
    if target.suffix not in DIAGRAMS:
        raise TopologyError([f"{target}: a drawing ends in {' or '.join(DIAGRAMS)}"])
    topology = load(path)
    from testbed import diagram  # networkx takes a while to import: only those who want a picture pay

    text: str = getattr(diagram, DIAGRAMS[target.suffix])(topology)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TopologyError([f"{target}: cannot be written: {error.strerror}"]) from error


def _examined(path: str | Path) -> Draft:
    return examined(schema.draft(Path(path)))


def examined(draft: Draft) -> Draft:
    """The draft with what is impossible about its sound parts noted, too."""
    _refuse_links(draft)
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
        found = models.shape(settled(model), weights, _said(draft, "seed", 0) or 0)
    except BadModel as error:
        draft.document.problem(("run", "model"), str(error), model)
        return
    _examine_inputs(draft, found)
    _examine_tokens(draft, found)
    _examine_methods(draft, found)
    _examine_generation(draft, found)
    _examine_codebooks(draft, settled(model), weights)
    _examine_profile(draft, found)


def _said(draft: Draft, key: str, default: Any = None) -> Any:
    """What the file says of the run's `key`, as it was written; None if that is wrong."""
    return None if draft.document.wrong("run", key) else draft.document.at(("run", key), default)


def _refuse_links(draft: Draft) -> Draft:
    """What no shaper makes of a network is a problem where it is written: once if that is in the defaults."""
    for unfit in _refusals(draft):
        place = cables.place(draft.document, unfit)
        if not draft.document.wrong(*place):
            value = draft.document.at(place, None)
            draft.document.problem(place, unfit.text, *([] if value is None or unfit.where == "" else [value]))
    return draft


def _refusals(draft: Draft) -> list[Unfit]:
    """Of the whole if it is sound; else of each link that is, and of the media that these are joined to."""
    if draft.topology is not None:
        return envelope.refusal(draft.topology)
    if draft.document.at(("backend",), None) == "local":
        return []  # it has no links: the file was told so
    media: dict[str, Switch] = {}
    for link in draft.links.values():
        for node, into, out in ((link.b, link.up, link.down), (link.a, link.down, link.up)):
            if math.isinf(out.rate_bit_s):
                media[node] = Switch(node, "shared", into.rate_bit_s)
    alone = Topology("", "mininet", (), tuple(media.values()), (), RunSpec("", ""), draft.events)
    found = [unfit for index, link in draft.links.items() for unfit in envelope.link_refusal(index, link, media)]
    return [*envelope.refusal(alone), *found]


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
        devices = 1 if methods.load(spec.method).cuts == "nothing" else draft.devices
        why = misfit(spec.method, spec.options, shape, _said(draft, "tokens"), devices)
        if why is not None:
            draft.document.problem(("run", "methods", index), why, spec.label)


def _examine_generation(draft: Draft, shape: Shape) -> None:
    document, place = draft.document, ("run", "generate")
    given = document.at(place, None)
    if given is None:
        return
    if shape.result != "tokens":
        document.problem(place, f"{_said(draft, 'model')} does not tell which token comes next: only gpt2 and llama do")
    elif not document.unsound(*place):
        _examine_continuation(draft, shape, given)
    if _said(draft, "compute", "real") not in (None, "real"):
        document.problem(place, "where computing is replayed there is nothing to draw tokens from")
    able = [name for name in methods.METHODS if methods.load(name).generates]
    for index, spec in draft.methods.items():
        if spec.method not in able:
            why = f"after a prompt none of its devices can go on alone; these generate: {', '.join(able)}"
            document.problem(("run", "methods", index), why, spec.label)


def _examine_continuation(draft: Draft, shape: Shape, given: Any) -> None:
    """How many tokens follow and what they are drawn from; given: run.generate as it was written, and sound."""
    document, place = draft.document, ("run", "generate")
    model, prompt, most = _said(draft, "model"), _said(draft, "tokens"), shape.max_tokens or 0
    where: Place = (*place, "tokens") if isinstance(given, dict) else place
    tokens = document.at(where, None)
    # Nothing looks back at the last one. A prompt that is too long by itself is complained of already.
    if prompt is not None and prompt <= most < prompt + tokens - 1:
        words = f"after {prompt} tokens at most {most - prompt + 1} can follow"
        document.problem(where, f"{model} has positions for {most}: {words}", tokens)
    top_k = document.at((*place, "sampling", "top_k"), None)
    if (top_k or 0) > shape.vocabulary:
        words = f"{model} has only {shape.vocabulary} tokens to draw from"
        document.problem((*place, "sampling", "top_k"), words, top_k)


def _examine_codebooks(draft: Draft, model: str, weights: str) -> None:
    """A model that was prepared for codes has those codebooks and no others."""
    from testbed.prepare import folder  # loads torch, which describing the model needed too

    found = folder.of(model, weights)
    for index, spec in draft.methods.items():
        why = None if found is None else found.refusal(spec)
        if why is not None:
            draft.document.problem(("run", "methods", index), why, spec.label)


def _examine_profile(draft: Draft, shape: Shape) -> None:
    """A profile must be there, be of this model, and know every method with these tokens and devices."""
    topology, place = draft.topology, ("run", "compute")
    if topology is None or draft.document.found or topology.run.compute is None:
        return
    from testbed import profiles

    try:
        profile = profiles.read(Path(topology.run.compute))
    except TopologyError as error:
        draft.document.problem(place, "; ".join(error.problems))
        return
    if (profile.layers, profile.width) != (shape.layers, shape.width):
        ours, theirs = (f"{one.layers} layers of width {one.width}" for one in (shape, profile))
        draft.document.problem(place, f"profile {profile.name} is of {theirs}, {topology.run.model} has {ours}")
        return
    devices = Cluster(tuple(host.name for host in topology.hosts))
    for index, spec in draft.methods.items():
        try:
            profile.entry(place_on(spec.method, spec.options, shape, topology.run.tokens, devices))
        except ProfileError as error:
            draft.document.problem(("run", "methods", index), str(error), spec.label)


def _shapers(topology: Topology) -> list[str]:
    """What the links need, and who could make them, on a machine that has it."""
    if not topology.links:
        return []
    needs = list(
        dict.fromkeys(key for link in topology.links for lane in (link.up, link.down) for key in _beyond(lane))
    )
    needs += ["a shared medium"] if envelope.shared_media(topology) else []
    needs += ["events"] if any(event.kind != "kill" for event in topology.events) else []
    able = [shaper for shaper in SHAPERS if not envelope.unfit(topology, shaper)]
    relay = [f"        not relay: {unfit.text}" for unfit in envelope.unfit(topology, "relay")]
    return [f"shaper  needs {_listed(needs, 'and') or 'rates and queues only'}: {_listed(able, 'or')}", *relay]


def _beyond(lane: Lane) -> list[str]:
    traced = ["a rate that changes"] if lane.trace is not None else []
    return [*envelope.beyond_rate(lane), *traced]


def _listed(words: Sequence[str], last: str) -> str:
    """ "delay, jitter and loss"."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _run(topology: Topology, shape: Shape) -> list[str]:
    run = topology.run
    size = f"{shape.family}, {shape.layers} layers of width {shape.width}, {shape.heads} heads"
    labels = ", ".join(spec.label for spec in run.methods)
    return [
        f"model   {run.model} ({size}), {run.weights} weights, {run.tokens} tokens, requests enter at {run.source}",
        f"methods {labels}",
        f"        up to {run.repeats} requests each, within {run.budget_s:g} s",
        *([] if run.compute is None else [f"compute replayed from {run.compute}"]),
        *([] if run.input_at == "source" else ["input   on every device beforehand"]),
        *([] if run.generate is None else [f"then    {run.generate.words}, on the device of the last of the prompt"]),
    ]


if __name__ == "__main__":
    from testbed.cli import main

    main(["check", *sys.argv[1:]])

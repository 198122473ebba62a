"""Who gets what: the box tokens x layers x heads is cut along the side that the method cuts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.cluster import Cluster
from runtime import methods
from runtime.errors import Unfit
from runtime.methods import split
from runtime.methods.split import SplitOptions
from runtime.plan import Plan, Share, Span, even_spans
from runtime.shape import Shape


def place(method: str, options: Mapping[str, Any], shape: Shape, tokens: int, cluster: Cluster) -> Plan:
    """Shares for all devices, even ones unless a split is asked for (one share for a method that cuts nothing).

    Raises Unfit with the reason.
    """
    kind = methods.load(method)
    devices = cluster.devices[:1] if kind.cuts == "nothing" else cluster.devices
    reason = refusal(method, options, shape, tokens, len(devices))
    if reason:
        raise Unfit(f"{method}: {reason}")
    whole = {"tokens": Span(0, tokens), "layers": Span(0, shape.layers), "heads": Span(0, shape.heads)}
    shares = []
    for rank, host in enumerate(devices):
        mine = dict(whole)
        if kind.cuts == "tokens":
            mine["tokens"] = content_spans(method, options, shape, tokens, len(devices))[rank]
        elif kind.cuts != "nothing":
            mine[kind.cuts] = even_spans(len(whole[kind.cuts]), len(devices))[rank]
        shares.append(Share(rank, host, **mine))
    return Plan(method, tuple(shares), dict(options))


def content_spans(method: str, options: Mapping[str, Any], shape: Shape, tokens: int, devices: int) -> list[Span]:
    """Content tokens of each device when all positions, class token and content, are dealt out.

    Where the class token is held once, its holder takes one content token less.
    """
    kind = methods.load(method)
    prefix = 0 if kind.own_class_token else shape.prefix
    made = kind.Options(**options)
    wanted = made.split if isinstance(made, SplitOptions) else None
    positions = split.spans(prefix + tokens, devices, wanted)
    return [Span(max(0, span.start - prefix), max(0, span.stop - prefix)) for span in positions]


def refusal(method: str, options: Mapping[str, Any], shape: Shape, tokens: int, devices: int) -> str | None:
    """Why a method cannot run a model with so many tokens on so many devices, or None."""
    kind = methods.load(method)
    if shape.max_tokens is not None and tokens > shape.max_tokens:
        return f"{tokens} tokens are more than the {shape.max_tokens} that this model has positions for"
    if kind.cuts == "tokens" and tokens < devices:
        return f"{tokens} tokens are too few for {devices} devices"
    return misfit(method, options, shape, tokens, devices)


def misfit(method: str, options: Mapping[str, Any], shape: Shape, tokens: int | None, devices: int) -> str | None:
    """What of a method's options does not fit a model, its tokens (where these are known) and the devices, or None."""
    kind = methods.load(method)
    made = kind.Options(**options)
    if isinstance(made, SplitOptions) and made.split is not None and tokens is not None:
        why = split.refusal(made.split, devices, content_spans(method, options, shape, tokens, devices))
        if why is not None:
            return why
    return kind.refuse(shape, made, devices)

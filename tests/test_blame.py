"""Who is named when a request fails, and what makes a request that ended well untrue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agents.blame import blame, differing
from runtime.plan import Generation, Plan, Share, Span
from testbed.truth import untrue


def plan(method: str = "tensor") -> Plan:
    spans = Span(0, 196), Span(0, 12), Span(0, 12)
    return Plan(method, tuple(Share(rank, f"h{rank + 1}", *spans) for rank in range(4)))


def missed(rank: int, lost: int, layer: int | None) -> dict[str, Any]:
    """A device that lost a peer."""
    error = f"rank {lost} lost at layer {layer}: it closed the connection"
    return {"rank": rank, "error": error, "lost_rank": lost, "lost_layer": layer}


def test_a_dead_process_is_named_though_all_others_report_each_other() -> None:
    rows = {0: missed(0, 3, 5), 1: missed(1, 0, 5), 3: missed(3, 2, 4)}
    hosts, text = blame(plan(), 7, rows, {2})
    assert hosts == ["h3"]
    assert text == "h3 lost in tensor at layer 4, request 7: its process ended"


def test_an_error_of_its_own_beats_the_losses_that_it_caused() -> None:
    rows = {0: missed(0, 3, 5), 1: missed(1, 0, 5), 2: {"rank": 2, "error": "ValueError: odd"}, 3: missed(3, 2, 5)}
    hosts, text = blame(plan(), 0, rows, set())
    assert hosts == ["h3"]
    assert text == "h3 failed in tensor at layer 5, request 0: ValueError: odd"


def test_who_is_missed_and_silent_is_named() -> None:
    rows = {0: missed(0, 3, 5), 1: missed(1, 2, 4), 3: missed(3, 2, 5)}
    assert blame(plan(), 0, rows, set())[0] == ["h3"]


def test_a_source_that_dies_alone_is_placed_by_its_layers() -> None:
    hosts, text = blame(plan("single"), 0, {}, {0})
    assert hosts == ["h1"]
    assert "single in its layers 0 to 11" in text


def test_who_dies_where_tokens_are_generated_may_have_been_past_its_layers() -> None:
    """The source waits for new tokens, and in no layer."""
    generating = replace(plan("sequence"), generation=Generation(9))
    rows = {rank: missed(rank, 3, None) for rank in range(3)}
    _, text = blame(generating, 2, rows, {3})
    assert (
        text == "h4 lost in sequence in its layers 0 to 11 or while tokens were generated, request 2: its process ended"
    )
    _, text = blame(generating, 2, rows | {1: missed(1, 3, 5)}, {3})
    assert text == "h4 lost in sequence at layer 5, request 2: its process ended"


def test_hosts_with_other_codebooks_are_found() -> None:
    assert differing(["h1", "h2", "h3"], ["a", "b", "a"]) == ["h2"]
    assert differing(["h1", "h2"], [None, None]) == []


def good(**changed: Any) -> list[dict[str, Any]]:
    row = {"rank": 0, "sent_bytes": 10, "scatter_bytes": 5, "gather_bytes": 0, "wire_bytes": 15}
    return [row | {"fidelity": {"max_abs_error": 1e-5}} | changed, {**row, "rank": 1}]


def test_a_true_request_passes() -> None:
    assert untrue(good(), [10, 10], True) is None
    assert untrue(good(wire_bytes=None), [10, 10], True) is None
    assert untrue(good(fidelity={"max_abs_error": 0.5}), [10, 10], False) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"fidelity": {"max_abs_error": 2e-4}}, "differs from single"),
        ({"fidelity": {"max_abs_error": float("nan")}}, "differs from single"),
        ({"sent_bytes": 9}, "formula says"),
        ({"wire_bytes": 14}, "only 14 left"),
    ],
)
def test_an_untrue_request_says_why(changed: dict[str, Any], words: str) -> None:
    assert words in (untrue(good(**changed), [10, 10], True) or "")

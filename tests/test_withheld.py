"""What a hypervisor withheld, by files in place of the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import withheld

HEAD = "cpu  9 9 9 9 9 9 9 999 0 0\n"


def test_it_is_of_the_processor_from_which_most_was_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(withheld, "STAT", stat)
    stat.write_text(HEAD + "cpu0 1 2 3 4 5 6 7 100 0 0\ncpu1 1 2 3 4 5 6 7 0 0 0\nintr 5\n")
    assert withheld.ticks() == {"cpu0": 100, "cpu1": 0}
    counted = withheld.Withheld()
    assert counted.share() == 0.0
    stat.write_text(HEAD + "cpu0 1 2 3 4 5 6 7 104 0 0\ncpu1 1 2 3 4 5 6 7 3 0 0\nintr 5\n")
    assert counted.share() == 0.0  # so few may be chance
    stat.write_text(HEAD + "cpu0 1 2 3 4 5 6 7 104 0 0\ncpu1 1 2 3 4 5 6 7 999999 0 0\ncpu2 1 2 3 4 5 6 7 9 0 0\n")
    assert counted.share() == 1.0


@pytest.mark.parametrize("text", [None, "", "cpu0 1 2 3 4 5 6 7\n"], ids=["no file", "empty", "an old kernel"])
def test_where_the_kernel_does_not_count_nothing_is_said(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(withheld, "STAT", tmp_path / "stat")
    if text is not None:
        (tmp_path / "stat").write_text(text)
    assert withheld.ticks() == {} and withheld.Withheld().share() == 0.0

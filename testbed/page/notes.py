"""What a reader should know of the runs: the notes of `testbed.notes`, those of one kind together."""

from __future__ import annotations

from testbed.notes import Note
from testbed.page.data import Study
from testbed.page.head import some
from testbed.page.markup import Piece, details, listed, paragraph, text

SPELLED = 4  # runs of which a note is told in full; the others are folded


def told(study: Study) -> Piece:
    """A list: what was seen, the likely cause, what to do, and of which runs."""
    kinds: dict[tuple[str, str, str], list[tuple[str, Note]]] = {}
    for run in study.runs:
        for note in run.notes:
            kinds.setdefault((note.code, note.cause, note.advice), []).append((run.letter, note))
    entries = "".join(_entry(found, len(study.runs) > 1) for found in kinds.values())
    return Piece(f'<ul class="notes">{entries}</ul>' if entries else paragraph("None.", "none"))


def _entry(found: list[tuple[str, Note]], many: bool) -> str:
    """Several runs in which the same was seen share a line."""
    seen: dict[str, list[str]] = {}
    for letter, note in found:
        seen.setdefault(note.seen, []).append(letter)
    lines = [f"{some(letters)}: {words}" if many else words for words, letters in seen.items()]
    first = found[0][1]
    cause, advice = (f"{words[0].upper()}{words[1:]}." for words in (first.cause, first.advice))
    rest = details(f"{len(lines) - SPELLED} more", listed(lines[SPELLED:])) if len(lines) > SPELLED else ""
    shown = "<br>".join(text(f"{line}.") for line in lines[:SPELLED])
    return f"<li><strong>{shown}</strong> {text(f'{cause} {advice}')}{rest}</li>"

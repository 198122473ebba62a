"""Pieces of HTML. Every text that comes from a run folder passes through `text` or `table` and is escaped there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from rich.table import Table

from testbed.tables import NONE


@dataclass(frozen=True)
class Plot:
    """One plotly figure of the page. alt: what it shows, for who does not see it; height in pixels."""

    name: str
    alt: str
    height: int
    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Piece:
    """A part of the page and the plots that it has places for."""

    html: str
    plots: tuple[Plot, ...] = ()


def text(value: object) -> str:
    """Any value as text of the page or as the value of an attribute."""
    return escape(str(value), quote=True)


def paragraph(words: object, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def listed(lines: Iterable[object]) -> str:
    """A list of plain lines, nothing without any."""
    entries = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f"<ul>{entries}</ul>" if entries else ""


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], caption: str) -> str:
    """A table that scrolls in its own box; the first column names the row, columns of words stand left."""
    cells = [[str(cell) for cell in row] for row in rows]
    kinds = ["" if all(map(_number, column)) else ' class="words"' for column in zip(*cells, strict=True)]
    kinds = kinds or [""] * len(heads)
    top = "".join(f'<th scope="col"{kind}>{text(head)}</th>' for head, kind in zip(heads, kinds, strict=True))
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td{kind}>{text(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
        + "</tr>"
        for row in cells
    )
    return (
        f'<p class="caption">{text(caption)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _number(cell: str) -> bool:
    return cell[:1].isdecimal() or cell in ("", NONE)


def from_console(shown: Table, caption: str) -> str:
    """A table of the terminal, cell by cell."""
    heads = [str(column.header).replace("\n", ", ") for column in shown.columns]
    return table(heads, zip(*(map(str, column.cells) for column in shown.columns), strict=True), caption)


def details(summary: object, inner: str, opened: bool = False) -> str:
    """Something to open."""
    return f"<details{' open' * opened}><summary>{text(summary)}</summary>{inner}</details>"


def plot(one: Plot) -> str:
    """The place of a plot, below its title."""
    title = f"<h4>{text(one.title)}</h4>" if one.title else ""
    return (
        f'<div class="panel">{title}<div class="plot" role="img" aria-label="{text(one.alt)}" '
        f'data-plot="{text(one.name)}" style="height:{one.height}px"></div></div>'
    )


def panels(plots: Sequence[Plot], caption: str, wide: bool = False) -> Piece:
    """Plots beside each other where there is room, with what is to be said of them below."""
    inner = "".join(map(plot, plots))
    kind = "panels wide" if wide else "panels"
    return Piece(f'<figure><div class="{kind}">{inner}</div><figcaption>{text(caption)}</figcaption></figure>',
                 tuple(plots))  # fmt: skip


def joined(*pieces: Piece | str) -> Piece:
    """One after the other."""
    whole = [piece if isinstance(piece, Piece) else Piece(piece) for piece in pieces]
    return Piece("\n".join(piece.html for piece in whole), tuple(p for piece in whole for p in piece.plots))


def chosen(group: str, label: str, options: Sequence[tuple[str, Piece]]) -> Piece:
    """One of several pieces, chosen by a plain select; selects of one group move together. A single one has none."""
    if len(options) == 1:
        return options[0][1]
    entries = "".join(f'<option value="{index}">{text(title)}</option>' for index, (title, _) in enumerate(options))
    select = f'<p class="choose"><label>{text(label)} <select data-group="{text(group)}">{entries}</select></label></p>'
    parts = [
        Piece(f'<div data-option="{text(group)}" data-value="{index}"{" hidden" * (index > 0)}>{one.html}</div>',
              one.plots)
        for index, (_, one) in enumerate(options)
    ]  # fmt: skip
    return joined(select, *parts)


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Colour and name of each kind."""
    items = "".join(f'<li><i style="background:{text(colour)}"></i>{text(name)}</li>' for name, colour in entries)
    return f'<ul class="legend" aria-label="colours">{items}</ul>'


def section(name: str, title: str, piece: Piece) -> Piece:
    """A part of the page with its heading."""
    return Piece(
        f'<section id="{text(name)}" aria-labelledby="{text(name)}-title"><h2 id="{text(name)}-title">{text(title)}'
        f"</h2>\n{piece.html}\n</section>",
        piece.plots,
    )

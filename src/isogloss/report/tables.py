"""One table in the forms it is read in: a terminal, Markdown, a page of HTML."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from isogloss.durable import write_whole
from isogloss.terminal import Table

Rows = Sequence[Sequence[str]]


def terminal_table(title: str, columns: Sequence[str], rows: Rows) -> Table:
    """For rich's console: the first column to the left, others to the right."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(columns: Sequence[str], rows: Rows) -> str:
    """For documents."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def write_page(
    path: Path, title: str, sentences: Sequence[str], columns: Sequence[str], rows: Rows, image: Path
) -> None:
    """A page that stands alone: sentences, the table, and a picture within it."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    picture = base64.b64encode(image.read_bytes()).decode()
    parts = [
        "<!doctype html><meta charset=utf-8>",
        f"<title>{html.escape(title)}</title>",
        "<style>body{font:16px/1.5 sans-serif;max-width:72em;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse}"
        "td,th{border:1px solid #bbb;padding:.3em .6em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}"
        "img{max-width:100%}</style>",
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(sentence)}</p>" for sentence in sentences),
        "<table>",
        line(columns, "th"),
        *(line(row, "td") for row in rows),
        "</table>",
        f'<p><img alt="{html.escape(title)}" src="data:image/png;base64,{picture}"></p>',
    ]
    write_whole(path, ("\n".join(parts) + "\n").encode())

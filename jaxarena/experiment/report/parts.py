"""Pieces of HTML that all sections are made of."""

import html
import re
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"


def section(title: str, body: str) -> str:
    """A part of the page under a heading that can be linked to."""
    return f'<section id="{anchor(title)}">\n<h2>{html.escape(title)}</h2>\n{body}\n</section>'


def anchor(title: str) -> str:
    """The name of a section in links.

    >>> anchor("Results: test")
    'results-test'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def headings(names: Iterable[str]) -> str:
    """The cells at the head of a table's columns; names are escaped."""
    return "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)


def scroll(table: str, label: str) -> str:
    """A table that scrolls by itself, also with the keyboard, where the page is too narrow for it."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(label)}">{table}</div>'


def note(text: str) -> str:
    """An explanation; the text is escaped."""
    return f'<p class="soft">{html.escape(text)}</p>\n'

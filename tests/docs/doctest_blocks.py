"""An extension of griffe: doctests in docstrings become code blocks of the reference, not quotations.

Named in `mkdocs.yml`. Belongs here: how docstrings are shown. Does not belong here: running doctests (pytest does).
"""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^(?P<indent> *)>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


class DoctestBlocks(griffe.Extension):
    """Puts a fence around every doctest."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Change the docstring of one object, once."""
        if obj.docstring and ">>> " in obj.docstring.value and "```" not in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with a fence around every doctest, which ends at an empty line."""
    return _DOCTEST.sub(r"\g<indent>```pycon\n\g<0>\n\g<indent>```", text)

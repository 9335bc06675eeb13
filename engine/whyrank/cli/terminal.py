"""Makes text of documents, queries and servers safe to print: no control character of it reaches the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["Terminal", "json_text", "printable"]

# C0 except newline and tab, DEL, C1, and the characters that change the direction of the following text.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ACTING_IN_JSON = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    return _ACTING.sub("", text)


def json_text(value: Any) -> str:
    """The same JSON, with escapes for characters that a terminal would act on and that JSON does not escape by itself."""
    return _ACTING_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


class Terminal(Console):
    """A rich console that lets only its own control sequences through, whatever is rendered."""

    def plain(self, text: str, style: str | None = None) -> None:
        """Text as it is: no markup, no guessed colours, not wrapped."""
        self.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

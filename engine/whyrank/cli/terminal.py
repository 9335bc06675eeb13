"""Where text of others becomes output for people: nothing in it may act on the terminal that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["Terminal", "json_text", "printable"]

# C0 but newline and tab, DEL, C1, and what turns the direction of the text that follows.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ACTING_IN_JSON = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    return _ACTING.sub("", text)


def json_text(value: Any) -> str:
    """The same data, with what JSON does not escape by itself and a terminal would act on as escapes."""
    return _ACTING_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


class Terminal(Console):
    """A rich console that lets only its own control sequences through, whatever is rendered."""

    def plain(self, text: str, style: str | None = None) -> None:
        """Text as it is: no markup, no guessed colours, not wrapped."""
        self.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

"""A checkpoint's chat template → PromptFormat, without a prompt file.

The template is rendered with markers in place of the texts. The text around them is the frame, which is trusted; the markers
are the fields. The resulting format must then render a few awkward texts exactly as the template does, or it is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, takewhile
from typing import TYPE_CHECKING

from whyrank.config import Route
from whyrank.errors import CheckpointError
from whyrank.prompting.formats import (
    Continuation,
    Fits,
    Instruction,
    Labels,
    Listwise,
    Piece,
    PromptFormat,
    Rule,
    Section,
)
from whyrank.prompting.rendering import render
from whyrank.types import Document, DocumentError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["CHAT", "MAX_LENGTH", "SHIPPED", "ChatQuestion", "Message", "Template", "chat_formats", "shipped_format"]

Message = tuple[str, str]
"""Role and text."""

Template = Callable[..., str]
"""The prompt for these messages; keywords are variables of the template. Raises CheckpointError where it refuses them."""

SHIPPED = "shipped"
"""The name of formats that come from the checkpoint itself."""
MAX_LENGTH = 8192
"""Used if the checkpoint gives no length."""

_Part = tuple[str, str | None]
"""Frame or a mark, and the field without which it is not there."""

_MARKS = {name: f"whyrankMarks{name.capitalize()}" for name in ("instruction", "query", "document")}
_PROBES = (
    "a",
    "two words\nand\n\n a line",
    "{{ x }} {% y %} 'q' \"r\" \\n <b>&amp;</b>",
    "<think>\nno\n</think>\n\nyes",
    "é 中文 🫖 [1] > [2]",
    "long " * 2000 + "text",
    " \n text \n",
)
_OTHER_FRAME = "its chat template writes different text with and without a system message"
_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


# From a template that has places for query and document.


def shipped_format(
    template: Template,
    model: str,
    architectures: Sequence[str],
    labels: Labels | None,
    default_instruction: str | None = None,
    max_length: int = MAX_LENGTH,
) -> PromptFormat:
    """The prompt that sentence-transformers' CrossEncoder renders for a pair: messages with the roles query and document, and
    one with the role system if there is an instruction.

    `labels`: None if a classification head gives the score. `default_instruction`: the checkpoint's own, if it has one in
    addition to its template."""
    _require_nothing_else(template)
    parts, instruction = _parts(template)
    if instruction is not None and default_instruction is not None:
        instruction = Instruction(default=default_instruction)
    routes: list[Route] = ["classify"] if labels is None else ["generate"]
    if labels is not None and all(name.endswith("ForCausalLM") for name in architectures):
        routes.append("classify")
    fmt = PromptFormat(
        name=SHIPPED,
        summary="From the checkpoint's own chat template",
        fits=_fits(model, architectures),
        routes=routes,
        max_length=max_length,
        runs=[_pieces(parts)],
        instruction=instruction,
        labels=labels,
        score=Rule(rule="logit" if labels is None or labels.negative is None else "margin"),
    )
    if _is_stripped(fmt, lambda *texts: template(_pair(*texts))):
        summary = f"{fmt.summary}, which strips white space around texts; here it is kept"
        return fmt.model_copy(update={"summary": summary})
    return fmt


def _fits(model: str, architectures: Sequence[str]) -> Fits:
    return Fits(names=[model.rstrip("/").rsplit("/", 1)[-1]], architectures=list(architectures))


def _pair(query: str, document: str, instruction: str = "") -> list[Message]:
    return [*([("system", instruction)] if instruction else []), ("query", query), ("document", document)]


def _require_nothing_else(template: Template) -> None:
    """Rejects templates whose prompt may contain more than the pair, since that would affect the score."""
    pair = _pair("q", "d")
    if template(pair, tools=[_TOOL]) != template(pair):
        raise CheckpointError("its chat template accepts tools; no prompt is derived from such a template")
    dated = [template(pair, strftime_now=lambda _, day=day: day, date_string=day) for day in ("1 May", "2 June")]
    if dated[0] != dated[1]:
        raise CheckpointError("its chat template writes a date into the prompt: scores would change with it")


def _parts(template: Template) -> tuple[list[_Part], Instruction | None]:
    """The frame with its markers. Parts that only appear with a system message depend on the instruction."""
    marks = _MARKS["query"], _MARKS["document"]
    alone, together = template(_pair(*marks)), template(_pair(*marks, _MARKS["instruction"]))
    for role in ("query", "document"):
        _require_once(role, alone, template)
    if _MARKS["instruction"] not in together:
        if together != alone:
            raise CheckpointError(_OTHER_FRAME)
        return [(part, None) for part in _split(alone)], None
    for role in _MARKS:
        _require_once(role, together, template)
    if _split(alone)[1::2] != _split(together)[1::2]:
        raise CheckpointError(
            "its chat template changes the order of query and document where there is a system message"
        )
    parts, default = list[_Part](), ""
    for one, other in zip(_split(alone), _split(together), strict=True):
        stretch, written = _stretch(one, other)
        parts += stretch
        default += written
    return parts, Instruction(default=default)


def _require_once(role: str, text: str, template: Template) -> None:
    count = text.count(_MARKS[role])
    if count == 1:
        return
    if count > 1:
        raise CheckpointError(f"its chat template writes the {role} {count} times; a prompt here has it once")
    first, second = (template(_pair(*(word if one == role else "x" for one in ("query", "document")))) for word in "ab")
    if first == second:
        raise CheckpointError(f"its chat template has no place for the role '{role}'")
    raise CheckpointError(f"its chat template does not write the text of the {role} unchanged")


def _split(text: str) -> list[str]:
    """Frame, mark, frame, mark, frame."""
    return re.split(f"({_MARKS['query']}|{_MARKS['document']})", text)


def _stretch(alone: str, together: str) -> tuple[list[_Part], str]:
    """A stretch of the frame from what it is without an instruction and with one, and the instruction that the first holds."""
    if alone == together:
        return [(alone, None)], ""
    before, mark, after = together.partition(_MARKS["instruction"])
    size = len(alone) - len(before) - len(after)
    if mark and size >= 0 and alone.startswith(before) and alone.endswith(after):
        return [(before, None), (mark, None), (after, None)], alone[len(before) : len(before) + size]
    start = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(alone, before, strict=False)))
    end, extra = alone[len(start) :], together[len(start) :]
    if not extra.endswith(end) or len(end) > len(after or extra):
        raise CheckpointError(_OTHER_FRAME)
    before, mark, after = extra[: len(extra) - len(end)].partition(_MARKS["instruction"])
    return [(start, None), (before, "instruction"), (mark, None), (after, "instruction"), (end, None)], ""


def _pieces(parts: Iterable[_Part]) -> list[Piece]:
    fields = {mark: name for name, mark in _MARKS.items()}
    return [
        Piece(field=fields[text]) if text in fields else Piece(text=text, when=when) for text, when in parts if text
    ]


def _is_stripped(fmt: PromptFormat, write: Callable[[str, str, str], str]) -> bool:
    """Raises CheckpointError if the format renders another prompt than `write`, which gets query, document and instruction.
    Returns whether they differ in nothing but white space around texts."""
    stripped = False
    default = "" if fmt.instruction is None else fmt.instruction.default
    for instruction in {default, "Find\nthe {{ answer }}" if fmt.instruction is not None else ""}:
        for query, document in ((pair) for text in _PROBES for pair in ((text, "x"), ("x", text))):
            expected = write(query, document, instruction)
            if _written(fmt, query, document, instruction) == expected:
                continue
            if _written(fmt, query.strip(), document.strip(), instruction) != expected:
                raise CheckpointError(
                    "its chat template does more than put texts into a frame: the prompt with the text "
                    f"{max(query, document)!r:.40} has a different frame or text"
                )
            stripped = True
    return stripped


def _written(fmt: PromptFormat, query: str, document: str, instruction: str) -> str:
    runs = render(fmt, query, Document(document), instruction)
    assert not isinstance(runs, DocumentError)  # a derived format has no features
    return "".join(span.text for run in runs for span in run)


# Around a question of ours, for any chat model.


@dataclass(frozen=True, slots=True)
class ChatQuestion:
    """What a chat model is asked. `answers`: the same answers in several spellings, each from the most to the least relevant;
    where a vocabulary has several of these as tokens, the model's own answers decide."""

    name: str
    summary: str
    system: str
    request: str
    answers: tuple[tuple[str, ...], ...]

    def user(self, query: str, document: str, instruction: str) -> str:
        return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}\n\n{self.request}"


_QUESTIONS = (
    ChatQuestion(
        "chat",
        "A chat model asked yes or no",
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Answer only "yes" or "no".',
        "Does the Document meet the requirements? Answer yes or no.",
        (("yes", "no"), ("Yes", "No"), ("YES", "NO")),
    ),
    ChatQuestion(
        "chat-grades",
        "A chat model asked for a grade from 0 to 3",
        "Grade how well the Document meets the requirements based on the Query and the Instruct provided. "
        "3: it gives the whole answer. 2: it gives a part of the answer, or one that is hard to find. "
        "1: it is about the same subject and gives no answer. 0: it has nothing to do with the Query. "
        "Answer only with the grade.",
        "Which grade does the Document deserve? Answer 3, 2, 1 or 0.",
        (("3", "2", "1", "0"),),
    ),
)
CHAT = {question.name: question for question in _QUESTIONS}
"""The prompt names that ask for `chat_formats`."""

_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_EVIDENCE = (
    "First say in one sentence what the document contributes to the query. Then give the evidence: what the document says in "
    "answer to the query, complete in itself and without anything else. Only rephrase; add and infer nothing. Keep names, "
    "numbers, dates, code and URLs as they are. Write in the language of the query."
)
_SECTIONS = [
    Section(name="contribution", open="<contribution>", close="</contribution>", max_tokens=128, one_line=True),
    Section(name="evidence", open="<evidence>", close="</evidence>", max_tokens=384),
]
# Switches thinking off, by the variable names in use; and a fixed date, because a prompt must not change from day to day.
_VARIABLES = {
    "add_generation_prompt": True,
    "enable_thinking": False,
    "thinking": False,
    "strftime_now": lambda _: "1 January 2026",
    "date_string": "1 January 2026",
}
# The public single-turn prompt of RankZephyr, with a place for an instruction.
_RANKER = "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query"
_LIST_MARKS = {name: f"whyrankMarks{name.capitalize()}" for name in ("count", "passages")}
_LIST_REQUEST = (
    "I will provide you with {count} passages, each indicated by a numerical identifier []. Rank the passages based on their "
    "relevance to the search query: {query}.\nInstruction: {instruction}\n{passages}Search Query: {query}.\nRank the {count} "
    "passages above based on their relevance to the search query. All the passages should be included and listed using "
    "identifiers, in descending order of relevance. The output format should be [] > [], e.g., [2] > [1], Answer concisely and "
    "directly and only respond with the ranking results, do not say any word or explain."
)
# How vocabularies write a word's beginning: not at all, or with a mark for the space before it.
_BEGINNINGS = (("", ""), ("▁", " "), ("Ġ", " "))
_ANSWER_MARK = "whyrankMarksAnswer"


def chat_formats(
    question: ChatQuestion, template: Template, model: str, architectures: Sequence[str], tokenizer: Tokenizer
) -> list[PromptFormat]:
    """The question in the checkpoint's own chat template: one format for each spelling of the answers that its vocabulary
    has as single tokens.

    Evidence is asked for in a second turn, after a positive answer, so that it does not affect scores."""
    turns = _turns(template, question.system)

    def ask(query: str, document: str, instruction: str) -> str:
        return _answered(template(turns(question.user(query, document, instruction)), **_VARIABLES))

    prompt = ask(_MARKS["query"], _MARKS["document"], _MARKS["instruction"])
    parts = re.split(f"({'|'.join(_MARKS.values())})", prompt)
    if parts[1::2] != list(_MARKS.values()):
        raise CheckpointError("its chat template does not write a user's message once and unchanged")
    listwise = _chat_listwise(template)
    second_turn = _answered(_behind_answer([*turns("x"), ("assistant", _ANSWER_MARK), ("user", _EVIDENCE)], template))
    formats = [
        PromptFormat(
            name=question.name,
            summary=question.summary,
            fits=_fits(model, architectures),
            routes=["generate"],
            max_length=MAX_LENGTH,
            runs=[_pieces((part, None) for part in parts)],
            instruction=Instruction(default=_INSTRUCTION),
            labels=labels,
            continuation=Continuation(opening=answer + second_turn, sections=_SECTIONS),
            listwise=listwise,
        )
        for labels, answer in _labels(question, tokenizer)
    ]
    if not formats:
        raise CheckpointError(f"its vocabulary has no tokens for {' and '.join(question.answers[0])}")
    if _is_stripped(formats[0], ask):
        raise CheckpointError("its chat template changes white space within a user's message")
    return formats


def _chat_listwise(template: Template) -> Listwise:
    """The question for an order, in the same chat template."""
    marks = {**_MARKS, **_LIST_MARKS}
    turns = _turns(template, _RANKER)
    prompt = _answered(template(turns(_LIST_REQUEST.format_map(marks)), **_VARIABLES))
    head, mark, tail = prompt.partition(marks["passages"])
    if not mark or marks["passages"] in tail:
        raise CheckpointError("its chat template does not write a user's message once and unchanged")
    return Listwise(
        identifiers="numbers",
        readout="permutation",
        window=20,
        stride=10,
        head=_marked_pieces(head, marks),
        passage=[
            Piece(text="["),
            Piece(field="identifier"),
            Piece(text="] "),
            Piece(field="document"),
            Piece(text="\n"),
        ],
        tail=_marked_pieces(tail, marks),
        one_line=True,
        max_words=300,
    )


def _marked_pieces(text: str, marks: Mapping[str, str]) -> list[Piece]:
    fields = {mark: name for name, mark in marks.items()}
    parts = re.split(f"({'|'.join(fields)})", text)
    return [Piece(field=fields[part]) if part in fields else Piece(text=part) for part in parts if part]


def _turns(template: Template, system: str) -> Callable[[str], list[Message]]:
    """The messages around a user's text. If a template rejects or drops system messages, ours becomes part of the user's."""
    with_system = [("system", system), ("user", "x")]
    try:
        has_system = system in template(with_system, **_VARIABLES)
    except CheckpointError:
        has_system = False
    if has_system:
        return lambda user: [("system", system), ("user", user)]
    return lambda user: [("user", f"{system}\n\n{user}")]


def _behind_answer(messages: Sequence[Message], template: Template) -> str:
    _, mark, rest = template(messages, **_VARIABLES).rpartition(_ANSWER_MARK)
    if not mark:
        raise CheckpointError("its chat template does not write an assistant's message unchanged")
    return rest


def _answered(prompt: str) -> str:
    """Closes a thought that the prompt opens, if the template has no switch for thinking."""
    if prompt.rstrip().endswith("<think>"):
        return f"{prompt.rstrip()}\n\n</think>\n\n"
    return prompt


def _labels(question: ChatQuestion, tokenizer: Tokenizer) -> Iterator[tuple[Labels, str]]:
    """Possible labels, each with the text of the positive one. Given by id if the tokenizer splits the text in another way."""
    for answers, (beginning, space) in product(question.answers, _BEGINNINGS):
        tokens = [tokenizer.token_to_id(beginning + word) for word in answers]
        labels = [
            text if tokenizer.encode(text, add_special_tokens=False).ids == [token] else token
            for text, token in zip([space + word for word in answers], tokens, strict=True)
            if token is not None
        ]
        if len(labels) == len(answers):
            yield Labels(positive=labels[0], between=labels[1:-1], negative=labels[-1]), space + answers[0]

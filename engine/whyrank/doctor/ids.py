"""Token ids of prompts, against those that the checkpoint's tokenizer gives for the whole prompt as one string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from whyrank.doctor.report import Finding
from whyrank.doctor.texts import LOOKALIKES, PLAIN, QUERY
from whyrank.prompting.listwise import ListPrompts
from whyrank.prompting.tokens import Bounds, PromptEncoder
from whyrank.request import RerankRequest
from whyrank.types import Document, DocumentError

__all__ = ["ids_finding", "list_ids_finding"]


def ids_finding(encoder: PromptEncoder, pairs: Sequence[RerankRequest] = ()) -> Finding:
    """Whether prompts have the ids that the checkpoint's tokenizer gives for the same text as a whole.

    Built-in texts without control tokens must have them, in the document and in the query. Where user text forms control
    tokens, alone or with the adjacent frame, it is encoded as text instead: then the frame's control tokens must be kept."""
    plain = [(QUERY, Document(text)) for text in PLAIN] + [(text, Document(PLAIN[0])) for text in PLAIN]
    other = [(QUERY, Document(text)) for text in LOOKALIKES] + [(text, Document("x")) for text in LOOKALIKES]
    other += [(pair.query, document) for pair in pairs for document in pair.documents]
    kinds = [_compare_ids(encoder, *pair) for pair in plain + other]
    wrong = [
        pair
        for place, (pair, kind) in enumerate(zip(plain + other, kinds, strict=True))
        if kind == "different" or (kind == "as text" and place < len(plain))
    ]
    if wrong:
        query, document = wrong[0]
        return Finding(
            "ids",
            f"{len(wrong)} of {len(kinds)} pairs differ from what the tokenizer makes of the whole prompt, first: "
            f"query {query!r:.60}, document {document.content!r:.60}",
            good=False,
        )
    value = f"{kinds.count('equal')} of {len(kinds)} pairs as the tokenizer itself has them"
    if as_text := kinds.count("as text"):
        value += f"; in {as_text}, text that looks like a control token is read as text"
    if cut := kinds.count("cut"):
        value += f"; {cut} too long to compare"
    return Finding("ids", value, good=True)


def _compare_ids(
    encoder: PromptEncoder, query: str, document: Document
) -> Literal["equal", "as text", "cut", "different"]:
    (row,) = encoder.encode(query, [document], None, "tail")
    whole, frame = encoder.whole_string_ids(query, document), encoder.whole_string_ids("x", Document("x"))
    if isinstance(row, DocumentError) or isinstance(whole, DocumentError) or row.prompts[0].truncation.truncated:
        return "cut"
    ids = row.prompts[0].ids
    if ids == whole:
        return "equal"
    assert not isinstance(frame, DocumentError)  # a document without metadata has no invalid features
    same_frame = encoder.control_tokens(ids) == encoder.control_tokens(frame)
    return "as text" if same_frame else "different"


def list_ids_finding(encoder: PromptEncoder) -> Finding:
    """As `ids_finding`, for prompts of two documents each."""
    wrong = []
    frame = ListPrompts(encoder, "x", [Document("x")] * 2, None, Bounds(), 2).whole_string_ids((0, 1))
    of_frame = encoder.control_tokens(frame)
    for text in (*PLAIN, *LOOKALIKES):
        for query, first in ((QUERY, text), (text, "x")):
            prompts = ListPrompts(encoder, query, [Document(first), Document("x")], None, Bounds(), 2)
            ids, whole = prompts.encode((0, 1)), prompts.whole_string_ids((0, 1))
            same_frame = encoder.control_tokens(ids) == of_frame
            if ids != whole and (text in PLAIN or not same_frame):
                wrong.append(text)
    count = 2 * len((*PLAIN, *LOOKALIKES))
    if wrong:
        return Finding(
            "ids", f"{len(wrong)} of {count} prompts differ from the tokenizer's, first: {wrong[0]!r:.60}", False
        )
    return Finding(
        "ids", f"{count} prompts as the tokenizer itself has them, but for texts that look like control", True
    )

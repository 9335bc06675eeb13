"""The model cards' own ways of building a prompt, written from the cards and independently of prompts/, so that a mistake in
one shows when both are compared. Tests and checks compare whyrank's ids with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

__all__ = ["CARDS", "INSTRUCTED", "LIST_CARDS", "Tokenise"]

PRISM_INSTRUCTION = (
    'Judge if the document is relevant to the query. Reply "yes" or "no".\n'
    'On "yes", also emit:\n'
    "<contribution>One sentence covering every core point the document "
    "contributes to the query, without elaboration.</contribution>\n"
    "<evidence>Self-contained rewrite of the query-relevant content. Rules:\n"
    "- Faithful: rephrase only; add or infer nothing.\n"
    "- Self-contained: evidence alone must fully answer the query.\n"
    "- Concise: drop query-irrelevant background.\n"
    "- Verbatim (no translation): proper nouns, terms, abbreviations, "
    "numbers, dates, code, URLs.\n"
    "- Output language: multilingual doc → query's language; else doc's language."
    "</evidence>"
)
_WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
_CANDIDATES = "Given a search query, retrieve relevant candidates that answer the query."
_JUDGE = "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
_ONLY = 'Note that the answer can only be "yes" or "no".'
_NO_THINK = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment "
    "(0 for not relevant, 1 for relevant).\nRelevance:"
)
_BGE_TASK = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)

Tokenise = Callable[[str], list[int]]


def _prism(tok: Tokenise, q: str, d: str) -> list[int]:
    return tok(
        f"<|im_start|>system\n{_JUDGE}<|im_end|>\n<|im_start|>user\n<Instruct>: {PRISM_INSTRUCTION}\n"
        f"<Query>: {q}\n<Document>: {d}{_NO_THINK}"
    )


def _qwen3_reranker(tok: Tokenise, q: str, d: str, instruction: str = _WEB_SEARCH) -> list[int]:
    prefix = tok(f"<|im_start|>system\n{_JUDGE}{_ONLY}<|im_end|>\n<|im_start|>user\n")
    return prefix + tok(f"<Instruct>: {instruction}\n<Query>: {q}\n<Document>: {d}") + tok(_NO_THINK)


def _qwen3_vl_reranker(tok: Tokenise, q: str, d: str, instruction: str = _CANDIDATES) -> list[int]:
    """Of text parts, which the chat template joins without anything between them."""
    parts = [f"<Instruct>: {instruction}", "<Query>:", q, "\n<Document>:", d]
    user = f"<|im_start|>user\n{''.join(parts)}<|im_end|>\n"
    return tok(f"<|im_start|>system\n{_JUDGE}{_ONLY}<|im_end|>\n{user}<|im_start|>assistant\n")


def _qanchor(tok: Tokenise, q: str, d: str) -> list[int]:
    return tok(
        f"<|im_start|>system\n{_JUDGE}{_ONLY}<|im_end|>\n<|im_start|>user\n<Instruct>: {_WEB_SEARCH}\n"
        f"<Query>: {q}\n<Document>: {d}{_NO_THINK}"
    )


def _querit(tok: Tokenise, q: str, d: str) -> list[int]:
    head = "Judge whether the Content meets the requirements based on the Query."
    return tok(f"{head} Query: {q}; Content: {d}") + tok("[CLS]")


def _multi_hop(tok: Tokenise, q: str, d: str, features: str = "") -> list[int]:
    return tok("[CLS]") + tok(f"{features}{q} [SEP] {d}") + tok("[SEP]")


def _bge(tok: Tokenise, q: str, d: str) -> list[int]:
    return tok("<s>") + tok(q) + tok("</s></s>") + tok(d) + tok("</s>")


def _mxbai(tok: Tokenise, q: str, d: str, instruction: str = "") -> list[int]:
    head = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    prompt = f"instruction: {instruction}\nquery: {q}" if instruction else f"query: {q}"
    body = tok(prompt) + tok("\n") + tok(f"document: {d}") + tok("\n") + tok(_MXBAI_TASK)
    return tok(head + "<|im_start|>user\n") + body + tok("<|im_end|>\n<|im_start|>assistant\n")


def _bge_gemma(tok: Tokenise, q: str, d: str) -> list[int]:
    return tok("<bos>") + tok(f"A: {q}") + tok("\n") + tok(f"B: {d}") + tok("\n") + tok(_BGE_TASK)


def _zerank(tok: Tokenise, q: str, d: str, instruction: str = "") -> list[int]:
    system = f"<query>{q}</query>\n<instruction>{instruction}</instruction>" if instruction else q
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{d}<|im_end|>\n"
    return tok(turns + "<|im_start|>assistant\n")


def _ctxl(tok: Tokenise, q: str, d: str, instruction: str = "") -> list[int]:
    query = f"{q} {instruction}" if instruction else q
    check = "Check whether a given document contains information helpful to answer the query."
    return tok(f"{check}\n<Document> {d}\n<Query> {query} ??")


_CLAIM_TASK = (
    "Determine whether the provided claim is consistent with the corresponding document. Consistency in this context implies "
    "that all information presented in the claim is substantiated by the document. If not, it should be considered "
    'inconsistent. Please assess the claim\'s consistency with the document by responding with either "Yes" or "No".'
)
_STATES = "Does the document state or directly imply all of the claim? Answer with Yes or No."


def _minicheck_7b(tok: Tokenise, q: str, d: str) -> list[int]:
    turns = f"<|im_start|>system\n{_CLAIM_TASK}<|im_end|>\n<|im_start|>user\nDocument: {d}\nClaim: {q}<|im_end|>\n"
    return tok(f"<s>{turns}<|im_start|>assistant\n")


def _minicheck_roberta(tok: Tokenise, q: str, d: str) -> list[int]:
    return tok(f"<s>{d}</s>{q}</s>")


def _minicheck_deberta(tok: Tokenise, q: str, d: str) -> list[int]:
    return tok("[CLS]") + tok(f"{d}[SEP]{q}") + tok("[SEP]")


def _claims_chatml(tok: Tokenise, q: str, d: str, instruction: str = _STATES) -> list[int]:
    turn = f"Document: {d}\n\nClaim: {q}\n\n{instruction}"
    head = "<|im_start|>system\nYou check claims against a document.<|im_end|>\n"
    return tok(f"{head}<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n")


CARDS: dict[str, Callable[..., list[int]]] = {
    "prism": _prism,
    "qwen3-reranker": _qwen3_reranker,
    "qwen3-vl-reranker": _qwen3_vl_reranker,
    "qanchor": _qanchor,
    "querit": _querit,
    "multi-hop": _multi_hop,
    "bge-reranker": _bge,
    "mxbai-v2": _mxbai,
    "bge-v2-gemma": _bge_gemma,
    "zerank": _zerank,
    "ctxl-v2": _ctxl,
    "minicheck-7b": _minicheck_7b,
    "minicheck-roberta": _minicheck_roberta,
    "minicheck-deberta": _minicheck_deberta,
    "claims-chatml": _claims_chatml,
}
"""Each card's recipe: (tokenise, query, document) → ids."""

INSTRUCTED = ("qwen3-reranker", "qwen3-vl-reranker", "mxbai-v2", "zerank", "ctxl-v2", "claims-chatml")
"""Cards whose recipe takes an instruction."""


Passages = Sequence[tuple[str | None, str]]
"""Titles and texts."""

_RANKER = "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query"
_ABOVE = (
    "passages above based on their relevance to the search query. All the passages should be included and listed using "
    "identifiers, in descending order of relevance. The output format should be [] > [], e.g.,"
)


def _content(title: str | None, text: str) -> str:
    """In the corpora of RankLLM and FIRST."""
    content = f"Title: {title} Content: {text}" if title else text
    return " ".join(content.strip().split()[:300])


def _zephyr(tok: Tokenise, user: str, answer: str = "") -> list[int]:
    return tok("<s>") + tok(f"<|system|>\n{_RANKER}</s>\n<|user|>\n{user}</s>\n<|assistant|>\n{answer}")


def _rank_zephyr(tok: Tokenise, q: str, passages: Passages, safe: bool = True) -> list[int]:
    def plain(text: str) -> str:
        return re.sub(r"\[(\d+)\]", r"(\1)", text) if safe else text

    count, query = len(passages), plain(q)
    user = f"I will provide you with {count} passages, each indicated by a numerical identifier []. "
    user += f"Rank the passages based on their relevance to the search query: {query}.\n"
    for rank, (title, text) in enumerate(passages, 1):
        user += f"[{rank}] {plain(_content(title, text))}\n"
    user += f"Search Query: {query}.\nRank the {count} {_ABOVE} [2] > [1], "
    user += "Answer concisely and directly and only respond with the ranking results, do not say any word or explain."
    return _zephyr(tok, user)


def _first(tok: Tokenise, q: str, passages: Passages, safe: bool = True) -> list[int]:
    count = len(passages)
    user = f"I will provide you with {count} passages, each indicated by a alphabetical identifier []. "
    user += f"Rank the passages based on their relevance to the search query: {q}.\n\n"
    for letter, (title, text) in zip("ABCDEFGHIJKLMNOPQRST", passages, strict=False):
        content = _content(title, text)
        safe_content = re.sub(r"\[([A-z]+)\]", r"(\1)", content) if safe else content
        user += f"[{letter}] {safe_content}\n"
    user += f"Search Query: {q}.\nRank the {count} {_ABOVE} [B] > [A], "
    user += "Only respond with the ranking results, do not say any word or explain."
    return _zephyr(tok, user, answer="[")


def _lighton(tok: Tokenise, q: str, passages: Passages, safe: bool = True, thought: str = "") -> list[int]:
    texts = [f"{title} {text}" if title else text for title, text in passages]
    body = "\n".join(f"[{rank}]: {text}" for rank, text in enumerate(texts, 1))
    user = f"Query: {q}\n\nRank these passages from most to least relevant:\n{body}\n\nRanking:"
    return tok(f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{thought}")


def _lighton_4b(tok: Tokenise, q: str, passages: Passages, safe: bool = True) -> list[int]:
    return _lighton(tok, q, passages, safe, thought="<think>\n\n</think>\n\n")


LIST_CARDS: dict[str, Callable[..., list[int]]] = {
    "first": _first,
    "lighton-lw": _lighton,
    "lighton-lw-4b": _lighton_4b,
    "rankzephyr": _rank_zephyr,
}
"""Each recipe for lists: (tokenise, query, passages) → ids. With `safe=False`, as a template without any care would be."""

"""Features of the multi-hop reranker for documents that lack them: hop, role, entities, causal and reasoning, by simple rules.

The model's author computed them with a named-entity model and unpublished rules. The rules here are others, so each document's
metadata lists the features that were computed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from typing import Any

from whyrank.types import Document

__all__ = ["COMPUTED", "entities_of", "is_causal", "role_of", "with_features"]

COMPUTED = "computed_features"
"""The key of a document's metadata that lists them."""

_MAX_ENTITIES = 5
_MANY_ENTITIES = 3
"""From so many on, a passage is marked as reasoning: the author's "high density of entities"."""
_FARTHEST = 2
"""The hop of documents that share nothing with the query nor with documents that do."""

_SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+|\n)[\"'(]*(\w+)")
_NAME = re.compile(
    r"\b[A-Z][\w’'-]*(?:(?: (?:of|the|and|de|van|von|al))* [A-Z][\w’'-]*|(?: [A-Z]\.)| \d{1,4}(?!\S*[.,]?\d))*"
)
_CAUSE = re.compile(
    r"\b(?:because|due to|owing to|thanks to|therefore|thus|hence|consequently|as a result|so that|leads? to|led to"
    r"|results? (?:in|from)|resulted (?:in|from)|causes?|caused|triggers?|triggered|stems? from"
    r"|(?:crippled|hampered|hindered|limited|driven|prevented|damaged|destroyed|explained) by)\b",
    re.IGNORECASE,
)
_EVIDENCE = re.compile(
    r"\d\s?%|\bper cent\b|\b(?:according to|for example|for instance|stud(?:y|ies)|survey|data|experiments?"
    r"|(?:found|showed|shown|measured|reported|observed) (?:that|to))\b",
    re.IGNORECASE,
)
_BACKGROUND = re.compile(
    r"^(?:[^,.]{1,80}?) (?:is|are|was|were) (?:an?|the|one of)\b|\b(?:refers? to|known as|also called|born (?:in|on)|"
    r"located (?:in|on)|founded (?:in|by)|established in|history of)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_STOP = frozenset(
    """a an the this that these those it its he she they we you i his her their our my your in on at of for from to
    with by and or but while if when where who what which why how is are was were be been has have had do does did
    can could will would may might not no as than then there here all some many most more also after before during
    since until about into over under between""".split()
)


def with_features(query: str, documents: Sequence[Document], wanted: Set[str]) -> tuple[Document, ...]:
    """The documents with the wanted features that they lack. Features that a document already has are left as they are."""
    entities = [_given_entities(document) or entities_of(document.content, query) for document in documents]
    hops = _hops(query, [document.content for document in documents], entities)
    return tuple(
        _completed(document, wanted, names, hop) for document, names, hop in zip(documents, entities, hops, strict=True)
    )


def _completed(document: Document, wanted: Set[str], entities: Sequence[str], hop: int) -> Document:
    text = document.content
    computed: dict[str, Any] = {
        "hop": hop,
        "role": role_of(text),
        "entities": list(entities),
        "is_causal": is_causal(text),
        "is_reasoning": len(entities) >= _MANY_ENTITIES,
    }
    missing = {name: value for name, value in computed.items() if name in wanted and name not in document.metadata}
    return (
        replace(document, metadata={**document.metadata, **missing, COMPUTED: sorted(missing)}) if missing else document
    )


def _given_entities(document: Document) -> list[str]:
    given = document.metadata.get("entities")
    return [name for name in given if isinstance(name, str)] if isinstance(given, list) else []


def entities_of(text: str, query: str = "") -> list[str]:
    """Names, told by their capital letters, and what the query has word for word: at most five, in the text's order."""
    starts = {match.start(1): match[1] for match in _SENTENCE_START.finditer(text)}
    places = dict[str, int]()
    for match in _NAME.finditer(text):
        name, at = match[0], match.start()
        if at in starts and name.split()[0].lower() in _STOP:  # "The Nile"
            name, at = name.partition(" ")[2], at + len(name.split()[0]) + 1
        # A lone capitalised word at the start of a sentence is a name only where it is one elsewhere, too.
        lone = at in starts and " " not in name and not name.isupper()
        if name and not (lone and text.count(name) < 2) and name.lower() not in _STOP:
            places.setdefault(name, at)
    for phrase in _shared_phrases(text, query):
        if not any(phrase.lower() in name.lower() for name in places):
            places[phrase] = text.lower().index(phrase.lower())
    return sorted(places, key=places.__getitem__)[:_MAX_ENTITIES]


def _shared_phrases(text: str, query: str) -> Iterator[str]:
    """Longest runs of two words or more, none of them a function word, that stand in both."""
    words, folded = _WORD.findall(query), f" {' '.join(_WORD.findall(text)).lower()} "
    at = 0
    while at < len(words) - 1:
        end = at
        while (
            end < len(words)
            and words[end].lower() not in _STOP
            and f" {' '.join(words[at : end + 1])} ".lower() in folded
        ):
            end += 1
        phrase = " ".join(words[at:end])
        if end - at >= 2 and phrase.lower() in text.lower():
            yield phrase
        at = max(at + 1, end)


def _hops(query: str, texts: Sequence[str], entities: Sequence[Sequence[str]]) -> list[int]:
    """0 for what shares an entity with the query, or where neither has one, two of its words; 1 for what shares an entity with
    those; 2 for the rest."""
    names_in_query = {name.lower() for name in entities_of(query)}
    content = {word for word in re.findall(r"\w{3,}", query.lower()) if word not in _STOP}
    folded = [{name.lower() for name in names} for names in entities]

    def near(text: str, names: Set[str]) -> bool:
        if names_in_query:
            return any(name in text.lower() for name in names_in_query)
        return bool(names & content) or len(content & set(re.findall(r"\w{3,}", text.lower()))) >= min(
            2, len(content) or 1
        )

    first = [near(text, names) for text, names in zip(texts, folded, strict=True)]
    reached = set().union(*(names for names, is_near in zip(folded, first, strict=True) if is_near))
    return [0 if is_near else 1 if names & reached else _FARTHEST for is_near, names in zip(first, folded, strict=True)]


def role_of(text: str) -> str:
    if _EVIDENCE.search(text):
        return "Supporting_Evidence"
    return "Background_Information" if _BACKGROUND.search(text) else "Main_Claim"


def is_causal(text: str) -> bool:
    return _CAUSE.search(text) is not None

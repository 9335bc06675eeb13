"""Questions about events, plain prose, Chinese facts, and meaningless strings of words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from demo_samples import Core, Question, Sentence, Source, are_distinct
from demo_words import FACTS, is_held_out, passages

__all__ = ["about_chinese", "about_event", "about_noise", "about_plain"]


def about_event(source: Source) -> Question:
    parts, _ = source.event()
    who, (base, past), what = parts["who"], parts["verb"], parts["what"]
    bare = who.removeprefix("the ")
    forms = {
        "who": (f"Who {past} the {what}?", f"{what} {past} by whom", f"who {past} {what}"),
        "what": (f"What did {who} {base}?", f"What was {past} by {who}?", f"{bare} {past}", f"what {bare} {past}"),
        "all": (
            f"{bare} {past} {what}",
            f"Did {who} {base} the {what}?",
            f"{bare} {what}",
            f"why {who} {past} the {what}",
        ),
    }
    asked = source.chance.choice(list(forms))
    # What the query specifies must be the same in an answer; in a distractor one part of it is changed.
    known = {"who": ("verb", "what"), "what": ("who", "verb"), "all": ("who", "verb", "what")}[asked]
    first, second = known[0], known[-1]

    def told(*same: str, **flags: Any) -> Sentence:
        while True:
            drawn, text = source.event(**{part: parts[part] for part in same})
            if all(are_distinct(drawn[part], parts[part]) for part in known if part not in same):
                return Sentence(text, **flags)

    def answer() -> list[Sentence]:
        drawn, text = source.event(**{part: parts[part] for part in known})
        gold = {"who": drawn["who"], "what": drawn["what"], "all": what}[asked]
        return [Sentence(text, True, True, True, answer=gold.removeprefix("the "))]

    def denied() -> list[Sentence]:
        text = f"{who if asked != 'who' else 'nobody'} never {past} the {what if asked != 'what' else source.noun()}."
        return [Sentence(text[0].upper() + text[1:], True, True)]

    cores = {
        "answer": answer,
        "other_attribute": lambda: [told(first, subject=True)],
        "other_subject": lambda: [told(second, attribute=True)],
        "crossed": lambda: source.shuffled([told(first, subject=True), told(second, attribute=True)]),
        "negation": denied,
        "random": lambda: [told()],
    }
    query = source.chance.choice(forms[asked])
    return Question("event", source.typed(query), cores, lambda near: told())


def about_plain(source: Source) -> Question:
    training = source.invent.split == "training"
    index, pages = _index(training), _pages(training)
    while True:
        page = source.chance.choice(pages)
        at = source.chance.randrange(len(page))
        words = list(dict.fromkeys(_content(page[at])))
        if len(words) >= 4:
            break
    # Rare words are more specific; people use those in their questions.
    words.sort(key=lambda word: len(index[word]))
    chosen = source.chance.sample(words[:5], k=source.chance.randint(2, 4))
    if source.chance.random() < 0.7:
        chosen.sort(key=page[at].lower().index)
    asked = frozenset(chosen)
    chosen = [_inflected(word) if source.chance.random() < 0.15 else word for word in chosen]
    letters = "abcdefgh"[: len(chosen)]
    form = source.chance.choice(FACTS["sentences"]["random"])
    query = (
        " ".join(chosen) if "{c}" in form or len(chosen) > 2 else form.format(**dict(zip(letters, chosen, strict=True)))
    )

    def other(partial: bool) -> Sentence:
        for _ in range(20):
            word = source.chance.choice(sorted(asked))
            text = source.chance.choice(index[word]) if partial else source.chance.choice(source.chance.choice(pages))
            shared = asked & set(_content(text))
            if text != page[at] and (0 < len(shared) < len(asked) if partial else not shared):
                return Sentence(text, subject=bool(shared))
        return source.filler("")

    def answer() -> list[Sentence]:
        around = [Sentence(text) for text in page[max(0, at - 1) : at + 2] if text != page[at]]
        found = Sentence(page[at], True, True, True, answer=page[at])
        return [*around[: at and 1], found, *around[at and 1 :]] if source.longest > 2 else [found]

    cores: dict[str, Core] = {
        "answer": answer,
        "some_words": lambda: [other(True) for _ in range(source.chance.randint(1, 2))],
        "random": lambda: [other(False)],
    }
    return Question("plain", query, cores, lambda near: other(False))


def about_chinese(source: Source) -> Question:
    table, pick = FACTS["chinese"], source.chance.choice
    relation = pick(table["relation"])
    others = [
        r for r in table["relation"] if r is not relation and not {r["topic"], relation["topic"]} >= {"人口", "价格"}
    ]
    kind = "name" if pick((True, False)) else "place"
    subject = source.invent.chinese(kind)

    def told(about: str, of: Mapping[str, Any], subject: bool = False, attribute: bool = False) -> Sentence:
        value = source.invent.chinese(of["value"])
        text = pick(of["say"]).format(s=about, v=value)
        return Sentence(text, subject, attribute, subject and attribute, answer=value)

    def stranger() -> str:
        return source.invent.chinese(kind)

    cores = {
        "answer": lambda: [told(subject, relation, True, True)],
        "other_attribute": lambda: [told(subject, pick(others), True)],
        "other_subject": lambda: [told(stranger(), relation, False, True)],
        "crossed": lambda: source.shuffled(
            [told(subject, pick(others), True), told(stranger(), relation, False, True)]
        ),
        "negation": lambda: [Sentence(f"没有人知道{subject}的{relation['topic']}。", True, True)],
        "random": lambda: [Sentence(pick(table["fill"]))],
    }
    query = pick(relation["ask"]).format(s=subject)
    return Question("chinese", query, cores, lambda near: Sentence(pick(table["fill"])), joiner="")


def about_noise(source: Source) -> Question:
    """Words in random order: there is nothing to memorise, so the only thing that helps is to copy, whatever the content."""
    chance, invent = source.chance, source.invent
    prose = _words(invent.split == "training")
    makers: list[Callable[[], str]] = [invent.word, lambda: chance.choice(prose), invent.odd_word]
    kinds = chance.choice((makers[:1], makers[1:2], makers))

    def maker() -> str:
        return chance.choice(kinds)()

    words, others = ([maker() for _ in range(chance.randint(4, 9))] for _ in range(2))
    start = chance.randrange(len(words) - 2)
    asked = words[start : start + 3] if chance.random() < 0.7 else chance.sample(words, k=2)

    def said(words: list[str], subject: bool = False, attribute: bool = False) -> Sentence:
        text = " ".join(words)
        return Sentence(f"{text[0].upper()}{text[1:]}.", subject, attribute, attribute, answer=" ".join(words[1:]))

    def other(*shared: str) -> Sentence:
        made = [*(maker() for _ in range(chance.randint(4, 9))), *shared]
        chance.shuffle(made)
        return said(made, bool(shared))

    cores = {
        "answer": lambda: [said(words, True, True)],
        "some_words": lambda: [other(chance.choice(asked))],
        "random": lambda: [said(others)],
    }
    return Question("noise", " ".join(asked), cores, lambda near: other())


_STOP = frozenset(
    """about above after again also another because been before being below between both cannot could does each either else
    even every from have having here into itself just like made make many more most much must need only other over same should
    since some such than that their them then there these they this those through under until used uses using very want well
    were what when where whether which while will with within without would your""".split()
)


def _inflected(word: str) -> str:
    """The plural of a singular word, and the other way round."""
    if word.endswith("s"):
        return word if word.endswith("ss") else word[:-1]
    return f"{word}s"


def _content(sentence: str) -> Iterator[str]:
    return (word for word in re.findall(r"[a-z]{4,}", sentence.lower()) if word not in _STOP)


@cache
def _pages(training: bool) -> list[tuple[str, ...]]:
    """Paragraphs of one split; the hash of the first sentence decides which."""
    return [page for page in passages() if is_held_out(page[0]) != training and len(page[0]) > 40]


@cache
def _index(training: bool) -> dict[str, list[str]]:
    """The sentences that contain each word."""
    found: dict[str, list[str]] = defaultdict(list)
    for page in _pages(training):
        for sentence in page:
            for word in set(_content(sentence)):
                found[word].append(sentence)
    return found


@cache
def _words(training: bool) -> list[str]:
    """All the words of one split's paragraphs."""
    return sorted(
        {word for page in _pages(training) for text in page for word in re.findall(r"[A-Za-z]+(?:-[a-z]+)*", text)}
    )

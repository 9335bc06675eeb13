"""Texts as words and sentences, and their language, by rules alone. Places always count characters of the text as given."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice

from whyrank.grounding.leads import end_of_lead

__all__ = [
    "MONTHS",
    "UNSPACED_SCRIPTS",
    "Vocabulary",
    "content_keys",
    "fold",
    "folded_words",
    "have_same_stem",
    "is_function_word",
    "is_unspaced",
    "language_of",
    "may_be_same_language",
    "sentences",
    "table_language",
    "visible_length",
]

# Thai to Khmer, Kana, Han, and Hangul, which has spaces but glues particles to its words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_UNSPACED_START = re.compile(f"[{_UNSPACED}]")
_SPACED = rf"[^\W_{_UNSPACED}]"
# Cut at 64 characters: normalising takes time that grows with the square of a run of combining marks.
_WORD = re.compile(rf"{_SPACED}{{1,64}}(?:[\u0300-\u036f]{{1,9}}{_SPACED}{{0,64}}){{0,9}}|[{_UNSPACED}]{{1,64}}")
_ASCII_WORD = re.compile(r"[a-z0-9]{1,64}")
_ASCII_FOLDED = "".join(sign.lower() if sign.isalnum() else " " for sign in map(chr, range(128)))


def fold(word: str) -> str:
    """Without case and typography: NFKC, case-folded."""
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def visible_length(text: str) -> int:
    """The number of characters other than white space."""
    return len("".join(text.split()))


def folded_words(text: str) -> list[str]:
    if text.isascii():
        words = text.translate(_ASCII_FOLDED).split()  # the same as the pattern finds, sooner, if no word has to be cut
        return _ASCII_WORD.findall(text.lower()) if max(map(len, words), default=0) > 64 else words
    return [word if word.isascii() else fold(word) for word in _WORD.findall(text.lower())]


def is_unspaced(word: str) -> bool:
    return word >= "\u0e00" and _UNSPACED_START.match(word) is not None


_FUNCTION_WORDS = {
    "en": "the of and to is that for with was by from are which as this be were has have at not it its on in an a or but "
    "can will their they than also when if only such these those been had may would into who while after before yes no s",
    "de": "der die das und ist nicht mit von dem den ein eine einer eines einem einen für auf wird werden wurde sich des "
    "als auch bei zu zum zur im am in an es er sie aus nach oder wie durch dass sind war hat haben nur noch ja nein",
    "fr": "le la les l d des du de est et une un dans pour que qu qui sur par au aux pas avec ce sont a il elle en ne se "
    "son sa ses plus ou été être cette ces à y n s c oui non",
    "es": "el la los las del de que es una un por con para se y su sus como más al en lo no o son fue ser está sí",
    "it": "il lo la di che è della per una un sono con gli le nel alla dei da si non e del in più al come sì",
    "pt": "o a os as do da de que não uma um para com por em ao é mais foi dos das se no na e como sim",
}
_LANGUAGES_OF: dict[str, list[str]] = {}
for _language, _listed in _FUNCTION_WORDS.items():
    for _function_word in _listed.split():
        _LANGUAGES_OF.setdefault(_function_word, []).append(_language)
_FUNCTION_CHARACTERS = frozenset("的了是在和与及或为也而以其并由被把从到对于就都可即则等之有这那")


def is_function_word(word: str) -> bool:
    return word in _LANGUAGES_OF


def content_keys(folded: Sequence[str]) -> list[str]:
    """Content words; of a run in a script without spaces, the pairs of neighbouring characters."""
    if not folded or max(folded) < "\u0e00":
        return [word for word in folded if word not in _LANGUAGES_OF]
    keys: list[str] = []
    for word in folded:
        if word in _LANGUAGES_OF:
            continue
        if word < "\u0e00" or len(word) == 1 or not is_unspaced(word):
            keys.append(word)
            continue
        for i in range(len(word) - 1):
            if word[i] not in _FUNCTION_CHARACTERS and word[i + 1] not in _FUNCTION_CHARACTERS:
                keys.append(word[i : i + 2])
    return keys


_MOST_ALIKE = 1000  # so many words with one beginning are no language


class Vocabulary:
    """Words that can also be found in other forms."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = dict.fromkeys(words)  # not a set, whose order changes from run to run

    @cached_property
    def _by_beginning(self) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = defaultdict(list)
        for word in self._words:
            grouped[word[:3]].append(word)
        return grouped

    def _alike(self, word: str) -> Iterator[str]:
        return islice(self._by_beginning.get(word[:3], ()), _MOST_ALIKE)

    def of_same_stem(self, word: str) -> list[str]:
        """Two thirds of the shorter word, at least four letters, begin both: reduce, reduction."""
        if len(word) < 4 or word.isdigit():
            return []
        return [other for other in self._alike(word) if have_same_stem(word, other)]

    def holds_name(self, word: str) -> bool:
        """Plural and genitive apart: Berlins is Berlin."""
        if word in self._words or word in _LANGUAGES_OF:
            return True
        return any(_is_same_name(word, other) for other in self._alike(word))


_ENDINGS = frozenset({"s", "es", "e", "n", "en", "er", "x", "d", "ed"})


def have_same_stem(one: str, other: str) -> bool:
    shorter, longer = (one, other) if len(one) <= len(other) else (other, one)
    if len(shorter) < 4:
        return len(shorter) == 3 and longer[:3] == shorter and longer[3:] in _ENDINGS
    stem = max(4, -(-2 * len(shorter) // 3))
    return one[:stem] == other[:stem] and len(longer) - len(shorter) <= 6


def _is_same_name(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    # Endings are added in Latin script, but replaced in Cyrillic and Greek.
    kept = len(shorter) - (0 if one < "\u0370" else 2)
    return kept > 2 and longer[:kept] == shorter[:kept] and len(longer) - len(shorter) <= (2 if kept > 3 else 1)


_MONTH_NAMES = (
    "january jan januar janvier enero gennaio janeiro|february feb februar février febrero febbraio fevereiro"
    "|march mar märz mars marzo março|april apr avril abril aprile|may mai mayo maggio maio|june jun juni juin junio giugno"
    " junho|july jul juli juillet julio luglio julho|august aug août agosto|september sep sept septembre septiembre settembre"
    " setembro|october oct oktober okt octobre octubre ottobre outubro|november nov novembre noviembre novembro"
    "|december dec dezember dez décembre diciembre dicembre dezembro"
)
MONTHS = {name: number for number, names in enumerate(_MONTH_NAMES.split("|"), 1) for name in names.split()}
_BREAK = re.compile(
    r"[.!?…。！？；\n][.!?…。！？；\n]*[\"'”’»)\]」』）]*"
)  # written so, the search for its start goes faster
_LAST = re.compile(r"[^\s.(]*\Z")
_NEXT = re.compile(r"\s*[\"'“„«(\[]?(\w*)")
_BULLETS = frozenset("-–—*•·>#|")
_BULLET = re.compile(r"\A(?:[-–—*•·>#|]+\s+)+")
_LONGEST_SENTENCE = 600
_ABBREVIATED = (
    "al approx art av bzgl bzw ca cf co corp dept dr ed eds env eq etc evtl fig ggf hr inc jr ltd max min mio mr mrd mrs ms "
    "mt nr no op para pp prof resp sec sr st str tel usw vgl vol vs zzgl jan feb aug sep sept oct nov dec"
)
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Sentences and lines without bullets and outer space; longer than 600 characters, they are cut between words."""
    start, length = 0, len(text)
    for match in _BREAK.finditer(text):
        mark, end = match[0], match.end()
        if mark[0] in ".!?…" and mark[-1] != "\n":
            inside_word = end < length and not text[end].isspace()
            if inside_word or (mark == "." and not _ends_sentence(text, start, end - 1)):
                continue
        yield from _pieces(text, start, end)
        start = end
    yield from _pieces(text, start, length)


def _ends_sentence(text: str, start: int, dot: int) -> bool:
    word = text[dot - 4 : dot]
    if word.isalpha() and text[dot + 2 : dot + 3].isupper():  # the usual case, quickly
        return word.lower() not in _ABBREVIATIONS
    last = _LAST.search(text, max(start, dot - 20), dot)
    following = _NEXT.match(text, dot + 1)
    before, after = last.group().lower() if last else "", following[1] if following else ""
    if before.isdigit():
        at = dot - len(before)
        is_list_number = not text[max(start, dot - 9) : at].strip() or end_of_lead(text, start, dot) == at
        is_day = len(before) <= 2 and after.lower() in (*MONTHS, "jahrhundert")
        return not is_list_number and not is_day
    if before == "m" and text[dot - 4 : dot - 1].lower() in ("a. ", " a.", " p.", "p. ") and after[:1].isupper():
        return True
    if before == "ms" and text[dot - 4 : dot - 2].strip().isdigit():  # milliseconds
        return not after[:1].islower()
    if before in _ABBREVIATIONS or (len(before) == 1 and before.isalpha() and before < "\u0e00"):
        return False
    return len(before) > 3 or not after[:1].islower()


def _pieces(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        cut = end
        if end - start > _LONGEST_SENTENCE:
            space = text.rfind(" ", start + 1, start + _LONGEST_SENTENCE)
            cut = space if space > 0 else start + _LONGEST_SENTENCE
        visible = text[start:cut].lstrip()
        if visible[:1] in _BULLETS:
            visible = _BULLET.sub("", visible)
        first = cut - len(visible)
        if visible := visible.rstrip():
            yield first, first + len(visible)
        start = cut


UNSPACED_SCRIPTS = frozenset({"CJK", "KANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR"})
_LETTERS_WORTH = {"CJK": 3.0, "HIRAGANA": 2.0, "KATAKANA": 2.0, "HANGUL": 2.0}  # how much a character says
_SAMPLE = 400
_LEAST_LETTERS = 20
_LEAST_WORDS = 4
_DOMINANT_SHARE = 0.6
_LEAST_VOTES = 3.0
_CLEAR_LEAD = 1.6


def language_of(text: str, folded: list[str]) -> str | None:
    """A language in Latin script, or a script as Unicode calls it: "LATIN" if the language is not known. None: several."""
    script = _script_of(text)
    return _latin_language(folded[:: len(folded) // _SAMPLE + 1]) if script == "LATIN" else script


def _script_of(text: str) -> str | None:
    sample = text[:: len(text) // _SAMPLE + 1]
    if sample.isascii() or max(sample) < "\u0370":
        return "LATIN"
    letters: dict[str, float] = defaultdict(float)
    for character in filter(str.isalpha, sample):
        script = unicodedata.name(character, "?").partition(" ")[0]
        letters["KANA" if script in ("HIRAGANA", "KATAKANA") else script] += _LETTERS_WORTH.get(script, 1.0)
    if letters["KANA"] > letters["CJK"] / 10:  # Japanese
        letters["KANA"] += letters.pop("CJK")
    script, top = max(letters.items(), key=lambda item: item[1])
    return script if top >= max(_LEAST_LETTERS, _DOMINANT_SHARE * sum(letters.values())) else None


def _latin_language(folded: list[str]) -> str | None:
    if sum(map(str.isalpha, folded)) < _LEAST_WORDS:
        return None
    votes = _votes(folded)
    (first, top), (_, runner_up), *_ = sorted(votes.items(), key=lambda item: -item[1])
    if top >= max(_LEAST_VOTES, _CLEAR_LEAD * runner_up):
        return first
    return None if runner_up >= _LEAST_VOTES else "LATIN"


def _votes(folded: Sequence[str]) -> dict[str, float]:
    """For each language, its function words; one of several languages counts a part for each."""
    votes = dict.fromkeys(_FUNCTION_WORDS, 0.0)
    for word, count in Counter(filter(_LANGUAGES_OF.__contains__, folded)).items():
        languages = _LANGUAGES_OF[word]
        for language in languages:
            votes[language] += count / len(languages)
    return votes


def table_language(text: str, folded: list[str]) -> str:
    """The language whose word tables fit best, however short the text: function words decide, English where there are none."""
    script = _script_of(text)
    if script == "CJK" or (script is None and any("\u3400" <= sign <= "\u9fff" for sign in text[:_SAMPLE])):
        return "zh"
    if script not in ("LATIN", None):
        return script or ""
    votes = _votes(folded[:: len(folded) // _SAMPLE + 1])
    return max(votes, key=lambda language: votes[language])


def may_be_same_language(one: str, other: str) -> bool:
    return one == other or ("LATIN" in (one, other) and {one, other} <= {"LATIN", *_FUNCTION_WORDS})

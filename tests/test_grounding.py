"""Planted errors are found, faithful rewrites accepted, positions exact, and hostile input breaks nothing."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from whyrank.grounding import ground
from whyrank.grounding.words import sentences
from whyrank.types import Grounding

Pair = dict[str, Any]
DATA = Path(__file__).parent / "data" / "grounding"
FILES = ("pairs", "held_out")


def pairs(name: str) -> list[Pair]:
    return list(tomllib.loads((DATA / f"{name}.toml").read_text())["pair"])


# ------------------------------------------------------------------------------------------------------ the planted set


class Planted(NamedTuple):
    """An error in an evidence text, at start..end; for a flag, that is the whole text."""

    kind: str
    pair: Pair
    evidence: str
    start: int = 0
    end: int = 0

    @property
    def grounding(self) -> Grounding:
        return ground(self.evidence, self.pair["document"], self.pair["query"])

    def is_caught(self) -> bool:
        grounding = self.grounding
        if self.kind in FLAGS:
            return FLAGS[self.kind] in grounding.flags
        return any(s.verdict != "supported" for s in grounding.sentences if s.start < self.end and s.end > self.start)


FLAGS = {"translated": "language", "loop": "repetition", "copied": "too_long"}


def planted(pair: Pair) -> Iterator[Planted]:
    faithful = pair["evidence"][0]
    for kind, old, new in pair["edits"]:
        start = faithful.index(old)
        # The addition is at the end of `new`.
        first = start + len(old) if kind == "clause" and new.startswith(old) else start
        yield Planted(kind, pair, faithful.replace(old, new), first, start + len(new))
    for sentence in pair["fabricated"]:
        evidence = f"{faithful}{'' if pair['language'] == 'zh' else ' '}{sentence}"
        yield Planted("fabricated", pair, evidence, len(evidence) - len(sentence), len(evidence))
    yield Planted("translated", pair, pair["translation"])
    yield Planted("loop", pair, faithful + faithful[-60:] * 8)
    yield Planted("copied", pair, pair["document"].strip())


@pytest.mark.parametrize("name", FILES)
def test_planted_errors_are_caught(name: str) -> None:
    cases = [case for pair in pairs(name) for case in planted(pair)]
    missed = [
        (case.kind, case.pair["name"], case.evidence[case.start : case.end]) for case in cases if not case.is_caught()
    ]
    assert len(cases) >= {"pairs": 250, "held_out": 80}[name]
    assert len(missed) <= 0.02 * len(cases), missed


@pytest.mark.parametrize("name", FILES)
def test_planted_facts_are_called_altered(name: str) -> None:
    cases = [
        case for pair in pairs(name) for case in planted(pair) if case.kind in ("number", "date", "name", "url", "code")
    ]
    verdicts = [
        {s.verdict for s in case.grounding.sentences if s.start < case.end and s.end > case.start} for case in cases
    ]
    assert sum("altered" in verdict for verdict in verdicts) >= 0.95 * len(cases)


@pytest.mark.parametrize("name", FILES)
def test_faithful_rewrites_are_not_called_altered(name: str) -> None:
    """They are free rewrites, so that nearly all of their sentences are unverified: no proof holds for them."""
    groundings = [
        ground(evidence, pair["document"], pair["query"]) for pair in pairs(name) for evidence in pair["evidence"]
    ]
    verdicts = [sentence.verdict for one in groundings for sentence in one.sentences]
    altered = [sentence for one in groundings for sentence in one.sentences if sentence.verdict == "altered"]
    assert len(altered) <= 0.09 * len(verdicts), altered
    assert verdicts.count("unverified") >= 0.85 * len(verdicts)
    flagged = [one for one in groundings if set(one.flags) - {"unsupported_entities"}]
    assert len(flagged) <= 0.05 * len(groundings), flagged


@pytest.mark.parametrize("name", FILES)
def test_places_are_exact(name: str) -> None:
    for pair in pairs(name):
        document = pair["document"]
        wrong = [case.evidence for case in planted(pair) if case.kind not in FLAGS]
        for evidence in [*pair["evidence"], *wrong]:
            grounding = ground(evidence, document, pair["query"])
            assert all(evidence[item.start : item.end] == item.text for item in grounding.unsupported)
            for span in grounding.spans:
                sentence = evidence[span.evidence_start : span.evidence_end]
                assert 0 <= span.start < span.end <= len(document)
                assert 0 <= span.evidence_start < span.evidence_end <= len(evidence)
                assert sentence == sentence.strip() and 0 < span.similarity <= 1
                stretches = [
                    document[s.start : s.end] for s in grounding.spans if s.evidence_start == span.evidence_start
                ]
                width = 2 if pair["language"] == "zh" else 3
                assert resemblance(sentence, " ".join(stretches), width) > 0.35, (sentence, stretches)


def resemblance(sentence: str, stretch: str, width: int) -> float:
    """Share of the sentence's substrings of `width` characters, spaces included, that the stretch contains."""
    runs = [sentence[i : i + width].lower() for i in range(len(sentence) - width + 1)]
    return sum(run in stretch.lower() for run in runs) / len(runs)


# ------------------------------------------------------------------------------------------------------- small tables

CLAIMS = [row for group in tomllib.loads((DATA / "claims.toml").read_text())["group"] for row in group["rows"]]


@pytest.mark.parametrize(("evidence", "document", "missing"), CLAIMS)
def test_what_the_document_does_not_hold(evidence: str, document: str, missing: list[str]) -> None:
    assert [item.text for item in ground(evidence, document).unsupported] == missing


def test_every_kind_is_named() -> None:
    evidence = "On 4 May 2020 some 42 people met Anna Bell at https://x.example/y to run `make_all`."
    kinds = [(item.kind, item.text) for item in ground(evidence, "Nothing of it.").unsupported]
    assert kinds == [
        ("date", "4 May 2020"),
        ("number", "42"),
        ("name", "Anna Bell"),
        ("url", "https://x.example/y"),
        ("code", "make_all"),
    ]


def test_what_the_query_says_is_not_made_up() -> None:
    query = "Did Anna Bell visit Oslo in 1999?"
    assert not ground(
        "Yes, Anna Bell visited the town of Oslo in 1999.", "She visited the town then.", query
    ).unsupported
    assert ground("She visited Bergen in 1999.", "She visited the town then.", query).unsupported[0].text == "Bergen"


SENTENCES = [
    ("Horses came. Riders left.", 2),
    ("See e.g. horses, i.e. animals. Riders left.", 2),
    ("Nothing like U.S. Army horses, Dr. Smith and Mr. Jones found.", 1),
    ("Horses cost 3.5 euros. Riders left.", 2),
    ("Am 10. Dezember kamen Pferde im 19. Jahrhundert.", 1),
    ("See https://a.example/b.c?d for horses. Riders left.", 2),
    ("Horses:\n- brown horses\n- white horses", 3),
    ("1. Install horses.\n2. Ride horses.", 2),
    ('Riders said "Stop horses." Then riders left.', 2),
    ("马来到村庄。骑手离开村庄！真的离开村庄？", 3),
    ("Horses, what?! Riders... Animals.", 3),
]


@pytest.mark.parametrize(("text", "count"), SENTENCES)
def test_sentences(text: str, count: int) -> None:
    assert len({span.evidence_start for span in ground(text, text).spans}) == count


# ------------------------------------------------------------------------------------------------------ reporting leads


def whole_sentences() -> Iterator[tuple[str, str, str]]:
    """Language, sentence and document, of texts written for the embedded model: answers that are sentences of their passage."""
    for path in sorted((Path(__file__).parents[1] / "scripts" / "demo_texts" / "train").glob("*.jsonl")):
        for line in path.read_text().splitlines()[::4]:
            record = json.loads(line)
            passage = record["passage"]
            places = list(sentences(passage))
            for answer in record["answer"]:
                start, end = passage.index(answer), passage.index(answer) + len(answer)
                if any(start == first for first, _ in places) and any(end == last for _, last in places):
                    yield record["language"], answer, passage


def test_a_reporting_lead_before_a_sentence_of_the_document_changes_nothing() -> None:
    counted = 0
    for language, sentence, document in whole_sentences():
        lowered = sentence[0].lower() + sentence[1:]
        leads = (
            [f"指出：{sentence}"] if language == "zh" else [f"States that {lowered}", f"The document says: {sentence}"]
        )
        for evidence in leads:
            grounding = ground(evidence, document)
            assert grounding.supported == 1.0, (evidence, grounding.sentences)
            assert grounding.sentences[0].start == 0 == grounding.spans[0].evidence_start
            counted += 1
    assert counted >= 500


@pytest.mark.parametrize(
    "evidence",
    [
        "Denies that water boils at 100 °C.",
        "Does not say that water boils at 100 °C.",
        "States that water boils at 90 °C.",
        "States that water never boils at 100 °C.",
        "Doubts that water boils at 100 °C.",
        "The mayor says that water boils at 100 °C.",
        "指出：水在90度沸腾。",
    ],
)
def test_a_lead_hides_nothing(evidence: str) -> None:
    assert ground(evidence, "Water boils at 100 °C. 水在100度沸腾。 Tea is old.").supported == 0.0


@pytest.mark.parametrize(
    "evidence",
    [
        "Explains that water boils at 100 °C.",
        "The passage also notes that water boils at 100 °C.",
        "This article points out: Water boils at 100 °C.",
        "Der Text besagt: Water boils at 100 °C.",
        "Indique que water boils at 100 °C.",
        "El documento señala que water boils at 100 °C.",
        "文中指出，水在100度沸腾。",
        "States that 3. Boil the water for 300 ms.",
    ],
)
def test_leads(evidence: str) -> None:
    document = "Water boils at 100 °C. 水在100度沸腾。\n3. Boil the water for 300 ms. Serve it."
    assert ground(evidence, document).supported == 1.0


DOCUMENT = (
    "The mill was built in 1850 by the miller Jonas Reed. It burned down during a storm. "
    "Later the town council rebuilt it with bricks. Nowadays a bakery uses the building."
)


def test_a_sentence_that_joins_distant_ones_has_both_stretches() -> None:
    evidence = "Built in 1850 by the miller Jonas Reed, the building is nowadays used by a bakery."
    grounding = ground(evidence, DOCUMENT)
    assert [DOCUMENT[span.start : span.end] for span in grounding.spans] == [
        "The mill was built in 1850 by the miller Jonas Reed.",
        "Nowadays a bakery uses the building.",
    ]
    assert (grounding.unverified, grounding.unsupported) == (1.0, ())


def test_a_sentence_that_joins_neighbours_has_one_stretch() -> None:
    grounding = ground("It burned down during a storm, and the town council rebuilt it later with bricks.", DOCUMENT)
    (span,) = grounding.spans
    assert DOCUMENT[span.start : span.end] == (
        "It burned down during a storm. Later the town council rebuilt it with bricks."
    )


def test_supported_is_a_share_of_visible_characters() -> None:
    good, wrong, made_up = (
        "Nowadays a bakery uses the building.",
        "The mill was built in 1851.",
        "Tourists love ducks nearby.",
    )
    grounding = ground(f"{good}  {wrong}\n{made_up} Yes.", DOCUMENT)
    sizes = [len("".join(part.split())) for part in (good, wrong, made_up)]
    # "Yes." claims nothing; the wrong year has a source and still does not count.
    assert grounding.supported == pytest.approx(sizes[0] / sum(sizes))
    assert [span.evidence_start for span in grounding.spans] == [0, len(good) + 2]
    assert [item.text for item in grounding.unsupported] == ["1851"]


@pytest.mark.parametrize(("evidence", "document"), [("", DOCUMENT), (" \n", DOCUMENT), ("...", DOCUMENT), ("", "")])
def test_no_evidence_is_not_supported(evidence: str, document: str) -> None:
    assert ground(evidence, document) == Grounding(0.0)


def test_an_empty_document_supports_nothing() -> None:
    grounding = ground("In 1850 Jonas Reed built it.", "")
    assert (grounding.supported, grounding.spans) == (0.0, ())
    assert [item.text for item in grounding.unsupported] == ["1850", "Jonas Reed"]
    assert grounding.flags == ("unsupported_entities",)


def test_places_survive_what_changes_length() -> None:
    document = "İİ ﬁﬁ 👩‍👩‍👧 Straße.   Cafe\u0301s  serve  1,000 guests in İzmir.  End of story."
    evidence = "👍🏽 In İzmir,  Cafés serve 1000 guests. Some 77 left."
    grounding = ground(evidence, document)
    (span,) = grounding.spans
    assert document[span.start : span.end] == "Cafe\u0301s  serve  1,000 guests in İzmir."
    assert [evidence[item.start : item.end] for item in grounding.unsupported] == ["77"]


# ---------------------------------------------------------------------------------------------------------------- flags

IN_LANGUAGE = {
    "en": "The mill was built by the river and it was used for the grain of the whole valley, which is why it is famous.",
    "de": "Die Mühle wurde am Fluss gebaut und sie wurde für das Korn des ganzen Tals genutzt, weshalb sie nicht klein ist.",
    "fr": "Le moulin est sur la rivière et il est utilisé pour le grain de toute la vallée, ce qui est dans les livres.",
    "es": "El molino está en el río y se usa para el grano de los pueblos del valle, por lo que es más grande que una casa.",
    "it": "Il mulino è sul fiume e si usa per il grano della valle, che è più grande di una casa con gli alberi alla porta.",
    "pt": "O moinho não está no rio e é uma casa do vale com os grãos dos campos, mas é mais antigo do que as outras.",
    "zh": "磨坊建在河边，整个山谷的粮食都在这里加工，因此非常有名，每年都有很多人来参观。",
    "ja": "水車小屋は川のそばに建てられ、谷全体の穀物を挽くために使われていたので、とても有名です。",
    "ko": "방앗간은 강가에 지어졌고 골짜기 전체의 곡식을 빻는 데 쓰였기 때문에 아주 유명합니다.",
    "ru": "Мельница была построена у реки и служила для зерна всей долины, поэтому она так известна.",
    "ar": "بنيت الطاحونة على ضفة النهر واستخدمت لطحن حبوب الوادي كله ولذلك فهي مشهورة جدا.",
    "el": "Ο μύλος χτίστηκε δίπλα στο ποτάμι και χρησιμοποιήθηκε για τα σιτηρά όλης της κοιλάδας.",
}


@pytest.mark.parametrize("document", IN_LANGUAGE)
@pytest.mark.parametrize("evidence", IN_LANGUAGE)
def test_the_language_is_the_documents(evidence: str, document: str) -> None:
    assert ("language" in ground(IN_LANGUAGE[evidence], IN_LANGUAGE[document]).flags) == (evidence != document)


def test_a_document_in_several_languages_is_answered_in_the_querys() -> None:
    both = IN_LANGUAGE["en"] + IN_LANGUAGE["zh"]
    assert "language" not in ground(IN_LANGUAGE["en"], both, IN_LANGUAGE["en"]).flags
    assert "language" in ground(IN_LANGUAGE["zh"], both, IN_LANGUAGE["en"]).flags
    assert "language" not in ground(IN_LANGUAGE["zh"], both).flags


@pytest.mark.parametrize("evidence", ["OK", "NGINX 1.27", "De molen stond aan het water.", "`x = 1`"])
def test_what_cannot_be_told_is_no_flag(evidence: str) -> None:
    assert "language" not in ground(evidence, IN_LANGUAGE["en"]).flags


@pytest.mark.parametrize("evidence", ["OK", "NGINX 1.27", "`x = 1`"])
def test_a_few_terms_are_in_any_language(evidence: str) -> None:
    assert "language" not in ground(evidence, IN_LANGUAGE["zh"]).flags


def test_the_audits_gates_and_their_edges() -> None:
    ten_years = " ".join(str(year) for year in range(1901, 1911))
    assert "unsupported_entities" not in ground(f"{ten_years}", ten_years.replace("1901", "1801")).flags
    assert "unsupported_entities" in ground(f"{ten_years} 1911", ten_years.replace("1901", "1801")).flags
    words = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(200)]
    document = " ".join(words)
    assert "repetition" not in ground(" ".join(words[:60] + words[:24]), document).flags
    assert "repetition" in ground(" ".join(words[:40] + words[:30]), document).flags
    assert "too_long" in ground(document[: int(0.75 * len(document))], document).flags
    assert "too_long" not in ground(document[: int(0.65 * len(document))], document).flags
    assert "too_long" not in ground(document[:390], document[:399]).flags


# -------------------------------------------------------------------------------------------------------------- hostile

SMALL = "Seen on 4 March 2021: 3.5% of Paris, `x_y`, http://x.example/z, a@b.example. 水在海平面沸腾。"
LONG = 1_000_000
HOSTILE = {
    "one word": "a" * LONG,
    "one number": "7" * LONG,
    "numbers": "1 " * (LONG // 2),
    "groups": "1," * (LONG // 2),
    "dots": "." * LONG,
    "breaks": "! " * (LONG // 2),
    "lines": "\n" * LONG,
    "nul": "\x00" * LONG,
    "surrogates": "a\ud800 \udfff" * (LONG // 4),
    "marks": "e" + "\u0301\u0323" * (LONG // 2),
    "names": "Ab Cd. " * (LONG // 7),
    "backticks": "`a" * (LONG // 2),
    "links": "http://" + ")" * LONG,
    "addresses": "w" * LONG + "@",
    "underscores": "a_" * (LONG // 2),
    "han": "水在海平面沸腾" * (LONG // 7),
    "prose": SMALL * (LONG // len(SMALL)),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_only_texts(text: str) -> None:
    for evidence, document in ((SMALL, text), (text, SMALL), (text, text)):
        grounding = ground(evidence, document, "Paris?")
        assert 0 <= grounding.supported <= 1
        assert all(evidence[item.start : item.end] == item.text for item in grounding.unsupported)
        assert all(0 <= span.start < span.end <= len(document) for span in grounding.spans)


# ---------------------------------------------------------------------------------------------------------- three values

WATER = "Water boils at 100 °C at sea level and freezes at 0 °C. Salt raises the boiling point slightly."

VERDICTS = [
    ("Salt raises the boiling point slightly.", WATER, "supported", None),
    ("Water boils at 0 C.", WATER, "altered", "joined"),
    ("Water does not boil at 100 °C at sea level.", WATER, "altered", "negation"),
    ("Salt raises the boiling point slightly and cures cancer.", WATER, "altered", "inserted"),
    ("Salt lowers the boiling point slightly.", WATER, "altered", "comparative"),
    (
        "The boiling point of water is 100 squarek is 100 aton.",
        "The boiling point of water is 100 °C.",
        "unverified",
        None,
    ),
    ("The fund pays 5 million euros.", "The fund pays €5,000,000.", "supported", None),
    ("The bus leaves at ten past four.", "The bus leaves at 04:10.", "supported", None),
    ("It was founded on 1968-11-12.", "It was founded on 12 November 1968.", "supported", None),
    ("The tour takes 90 minutes.", "The tour takes 1.5 h.", "supported", None),
    ("The parcel weighs 1200 g.", "The parcel weighs 1.2 kg.", "supported", None),
    ("The jury has 12 members.", "The jury has twelve members.", "supported", None),
    ("委员会有12名成员。", "委员会有十二名成员。", "supported", None),
    ("The tour takes 90 seconds.", "The tour takes 90 minutes.", "altered", "unit"),
    ("Members must vote in person.", "Members may vote in person.", "altered", "modality"),
    ("All members voted.", "Most members voted.", "altered", "quantifier"),
    ("It holds at least 40 people.", "It holds at most 40 people.", "altered", "quantifier"),
    ("Entry is free.", "Entry is free unless a concert takes place.", "altered", "dropped"),
    ("The mill hired the bank's lawyer.", "The bank hired the mill's lawyer.", "altered", "role"),
    ("Anna Bell sued Carl Dorn.", "Carl Dorn sued Anna Bell.", "altered", "role"),
    ("Der Vertrag gilt zwei Wochen.", "Der Vertrag gilt zwei Monate.", "altered", "unit"),
    ("Le musée ouvre le lundi.", "Le musée n'ouvre pas le lundi.", "altered", "negation"),
    ("La sala abre todos los días.", "La sala abre algunos días.", "altered", "quantifier"),
    ("儿童可以使用本机。", "儿童不得使用本机。", "altered", "negation"),
    ("A poem about rivers was read aloud by schoolchildren.", WATER, "unverified", "wording"),
    ("The lane is 0.93 miles long.", "The lane is 1.5 km long.", "supported", None),
    ("The lane is 0.5 miles long.", "The lane is 1.5 km long.", "altered", "number"),
    ("Add 750 µl of buffer.", "Add 0.75 ml of buffer.", "supported", None),
    ("The oven reaches 100 °C.", "The oven reaches 212 °F.", "supported", None),
    ("She needed 100 minutes.", "She needed one hour and forty minutes.", "supported", None),
    ("Fahrräder kosten drei Euro fünfzig.", "Fahrräder kosten 3,50 Euro.", "supported", None),
    ("Two thirds of the seats are taken.", "2/3 of the seats are taken.", "supported", None),
    ("Elle obtient cinquante-deux virgule quatre pour cent.", "Elle obtient 52,4 %.", "supported", None),
    ("It is the society's 120th concert.", "It is the society's one hundred and twentieth concert.", "supported", None),
    ("图书馆开放到20:30。", "图书馆开放到晚上八点半。", "supported", None),
    (
        "Frau Irma Thoma leitet das Haus.",
        "Frau Irma Petersen leitet das Haus, Herr Oliver Thoma den Hof.",
        "altered",
        None,
    ),
    (
        "Rui Pinto handles the vouchers.",
        "Rui Pinto handles the rebooking, Solveig Aas the vouchers.",
        "altered",
        "joined",
    ),
    ("Ivo Stark rebuilt the mill.", "Ivo Stark repaired the tower, Dora Finch rebuilt the mill.", "altered", None),
    ("It was raised by Edwin Lacey.", "It was raised by Basil Quill and sold by Edwin Lacey.", "altered", "joined"),
    ("Holm had given Lind permission.", "Lind, the driver, had given Holm permission.", "altered", "role"),
    ("Mrs Tomlin lets the garage.", "The garage is let to Mrs Tomlin.", "altered", "role"),
    ("The council was lent the map by the museum.", "The museum lent the council the map.", "unverified", None),
    ("The drawings were lent by the council.", "The museum lent the council the drawings.", "altered", "role"),
    ("It flowers a week after 'Carver'.", "It flowers a week before 'Carver'.", "altered", "comparative"),
]


@pytest.mark.parametrize(("evidence", "document", "verdict", "reason"), VERDICTS)
def test_verdicts(evidence: str, document: str, verdict: str, reason: str | None) -> None:
    (sentence,) = ground(evidence, document).sentences
    assert sentence.verdict == verdict
    assert reason is None or sentence.reason == reason


def test_shares_and_places_of_verdicts() -> None:
    good, wrong = "Salt raises the boiling point slightly.", "Water boils at 90 °C at sea level."
    other = "Tea tastes best fresh."
    grounding = ground(f"{good} {wrong} {other}", WATER)
    assert [one.verdict for one in grounding.sentences] == ["supported", "altered", "unverified"]
    sizes = [len("".join(part.split())) for part in (good, wrong, other)]
    shares = [size / sum(sizes) for size in sizes]
    assert [grounding.supported, grounding.altered, grounding.unverified] == pytest.approx(shares)
    (item,) = grounding.unsupported
    assert (item.kind, item.text) == ("number", "90 °C")
    assert WATER[item.source_start : item.source_end] == "100 °C"
    assert WATER[grounding.sentences[0].source_start : grounding.sentences[0].source_end] == good


def rows_of(path: Path) -> list[Pair]:
    return [json.loads(line) for line in path.read_text().splitlines()]


CLAIM_FILES = {
    "claims": [DATA.parent / "claims" / "documents.jsonl", DATA.parent / "claims" / "pairs.jsonl"],
    "second": [DATA.parent / "claims" / "second-documents.jsonl", DATA.parent / "claims" / "second-pairs.jsonl"],
    "verdicts": [DATA / "verdicts.jsonl"],
}


@pytest.mark.parametrize("name", CLAIM_FILES)
def test_faithful_and_unfaithful_evidence(name: str) -> None:
    """The halves for development; scripts/eval_grounding.py prints the figures by kind.

    Nearly verbatim texts and other formats mostly come with changed words as well, so that no proof holds: formats alone are
    tested by generated values (test_grounding_formats), and what a proof admits in test_grounding_proof."""
    rows = [row for path in CLAIM_FILES[name] for row in rows_of(path)]
    texts = {row["id"]: row["text"] for row in rows if "text" in row}
    judged = []
    for row in rows:
        if "evidence" in row:
            verdicts = {one.verdict for one in ground(row["evidence"], texts[row["document"]]).sentences}
            judged.append(
                (row, "altered" if "altered" in verdicts else "supported" if verdicts == {"supported"} else "other")
            )
    unfaithful = [(row, verdict) for row, verdict in judged if not row["faithful"]]
    assert not [row["evidence"] for row, verdict in unfaithful if verdict == "supported"]
    shared = [verdict for row, verdict in unfaithful if row["shares_wording"]]
    assert shared.count("altered") >= 0.9 * len(shared)
    faithful = [verdict for row, verdict in judged if row["faithful"]]
    assert faithful.count("altered") <= 0.02 * len(faithful)
    assert not [row["evidence"] for row, verdict in judged if row["kind"] == "verbatim" and verdict != "supported"]
    nearly = [verdict for row, verdict in judged if row["kind"] == "near_verbatim"]
    assert nearly.count("supported") >= 0.3 * len(nearly)

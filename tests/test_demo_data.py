"""The embedded model's training data: reproducible from the seed, true to its labels, and with its words kept apart."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

import pytest

from check_demo_texts import MORE, faults_of, faults_of_more, held_out, train_records
from demo_data import FAMILIES, HARD, Sample, Writer
from demo_lexicon import LexiconSource
from demo_material import synsets
from demo_teacher import Embeddings
from demo_words import FACTS, is_held_out, passages
from demo_written import WrittenSource, asks, chunks
from tiny_material import DESCRIPTIONS, write_material
from train_demo_model import LOOKED_AT


def samples(seed: int, split: str = "training", count: int = 40) -> list[Sample]:
    writer = Writer(seed, "held-out" if split == "held-out" else "training")
    rows = []
    for family in FAMILIES:
        for _ in range(count):
            question = writer.question(family)
            rows += [writer.document(question, kind) for kind in question.cores]
    return rows


def test_the_same_seed_writes_the_same() -> None:
    assert samples(3) == samples(3)
    assert samples(3) != samples(4)


def test_every_kind_of_near_miss_is_written() -> None:
    assert {sample.kind for sample in samples(5)} == {"answer", "random", *HARD}


def test_an_answer_holds_what_is_asked_for_and_its_evidence_is_in_the_document() -> None:
    for sample in samples(6):
        if sample.relevant:
            assert sample.answer and sample.answer.lower() in sample.document.lower(), sample
            assert sample.answer.lower() in sample.evidence.lower(), sample
            # A pronoun may have been replaced by "the height of" and its subject.
            assert words(sample.evidence) <= words(sample.document) | {"the", "of"}, sample


def test_a_near_miss_has_no_sentence_that_answers() -> None:
    for sample in samples(7):
        assert sample.relevant == any(sentence.answers for sentence in sample.sentences), sample
        assert sample.relevant or not sample.evidence
        if sample.kind in ("other_attribute", "other_subject", "crossed"):
            together = [s for s in sample.sentences if s.subject and s.attribute]
            assert not together, sample


@pytest.mark.parametrize("split", ["training", "held-out"])
def test_invented_words_stay_in_their_split(split: str) -> None:
    writer = Writer(8, "held-out" if split == "held-out" else "training")
    for word in (writer.invent.word() for _ in range(500)):
        assert is_held_out(word) == (split == "held-out")


def test_no_name_of_the_held_out_questions_is_ever_trained_on() -> None:
    trained, held = (names(samples(9, split, 80)) for split in ("training", "held-out"))
    assert len(trained) > 500 and len(held) > 500
    assert not trained & held


def test_plain_sentences_stay_in_their_split() -> None:
    pages = {sentence for page in passages() if is_held_out(page[0]) for sentence in page}
    plain = [Writer(10, "held-out").question("plain") for _ in range(5)]
    for question in plain:
        (answer,) = (s for s in question.cores["answer"]() if s.answers)
        assert answer.text in pages


def test_a_near_number_is_not_the_number() -> None:
    invent = Writer(11).invent
    for kind in ("year", "date", "count", "money", "length", "version"):
        for value in (invent.value(kind) for _ in range(100)):
            assert invent.near(value) != value


def test_document_lengths_follow_the_writer() -> None:
    writer = Writer(12, longest=12)
    lengths = [len(writer.document(writer.question("event"), "answer").sentences) for _ in range(60)]
    assert max(lengths) > 8 and min(lengths) < 4


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def names(rows: list[Sample]) -> set[str]:
    """Capitalised words inside sentences that occur in no template."""
    known = words(" ".join(_strings(FACTS))) | words(" ".join(sentence for page in passages() for sentence in page))
    known |= words(
        "Mount Lake Island River Bay Hill Falls Valley Works Brothers Group Labs Prize Medal Award Cup The Last"
    )
    known |= words("January February March April May June July August September October November December")
    capitalised = (re.findall(r"(?<=[a-z] )[A-Z][a-z]+", sample.document) for sample in rows)
    return {name.lower() for row in capitalised for name in row} - known


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _strings(inner)]
    if isinstance(value, list):
        return [text for inner in islice(value, None) for text in _strings(inner)]
    return [str(value)]


def test_the_written_texts_are_whole() -> None:
    records, more = list(train_records()), list(train_records(MORE))
    assert len(records) == 1530 and not [fault for record in records for fault in faults_of(record)]
    assert len(more) == 1200 and not [fault for record in more for fault in faults_of_more(record)]
    assert all(len(query["candidates"]) == 10 for query in held_out("queries"))


def test_a_fault_in_a_written_text_is_found() -> None:
    record = next(train_records())
    assert list(faults_of(record | {"answer": ["not there"]})) == ["an answer that does not stand in the passage"]
    other = next(train_records(MORE))
    assert list(faults_of_more(other | {"unanswered": []})) == ["not three unanswered queries"]


class Unknown:
    """A teacher that knows no similarities."""

    def similarity(self, one: str, other: str) -> float:
        return float("nan")


def test_written_samples_are_true_to_their_labels() -> None:
    source = WrittenSource("1", Unknown())
    by_passage = {ask.passage: ask for ask in asks()}
    for at, sample in enumerate(sample for _ in range(300) for sample in source.pair()):
        assert sample.relevant == (at % 2 == 0) == any(sentence.answers for sentence in sample.sentences), sample
        if sample.relevant:
            assert sample.evidence and sample.evidence[:20] in sample.document, sample
        elif sample.kind == "unanswered":
            texts = [sentence.text.strip() for sentence in sample.sentences]
            assert any(text in passage for text in texts for passage in by_passage), sample


def test_fields_that_are_looked_at_are_not_trained_on() -> None:
    source = WrittenSource("2", Unknown(), LOOKED_AT)
    forbidden = {ask.passage for ask in asks() if ask.field in LOOKED_AT}
    documents = [sample.document for _ in range(200) for sample in source.pair()]
    assert forbidden and not [text for text in documents if any(passage in text for passage in forbidden)]


def test_sentences_of_a_written_text_put_together_are_the_text() -> None:
    for ask in asks()[::37]:
        assert "".join(chunk.text for chunk in chunks(ask.passage)) == ask.passage


def test_an_entry_of_the_dictionary_explains_the_word_only_where_it_should(tmp_path: Path) -> None:
    folder = write_material(tmp_path)
    source = LexiconSource("3", folder, Embeddings(folder / "embeddings.npz"))
    words = {word: synset.gloss for synset in synsets(folder).values() for word in synset.words}
    for at in range(60):
        sample = source.definition(at % 2 == 1)
        (word,) = (word for word in words if word in sample.query)
        assert (
            any(words[word] in s.text or s.text.startswith("The beacon guided") for s in sample.sentences)
            == sample.relevant
        )
    described = [source.description() for _ in range(20)]
    assert all(0 < sample.target < 1 for sample in described if sample.target is not None)
    assert {short for short, _ in DESCRIPTIONS} >= {sample.query for sample in described}

"""Questions with documents that answer them, and documents that nearly do: the training data of the embedded model.

`Writer.question()` invents a question; `Writer.document(question, kind)` writes a document of one of the question's kinds:

    answer           the document answers it
    random           it is about something else entirely
    other_attribute  the same subject, another attribute
    other_subject    the same attribute, another subject
    crossed          subject and attribute both occur, but not together
    negation         it says that the answer is not so, or not known
    near_number      the requested number is slightly wrong
    some_words       a plain sentence that contains only some of the words

Everything comes from one seed, and from one split of the invented words (see demo_words.py).
"""

from __future__ import annotations

from collections.abc import Callable

from demo_questions import about_chinese, about_event, about_noise, about_plain
from demo_relations import about_relation
from demo_samples import FAMILIES, HARD, Question, Sample, Sentence, Source

__all__ = ["FAMILIES", "HARD", "Question", "Sample", "Sentence", "Writer"]

_ABOUT: dict[str, Callable[[Source], Question]] = {
    "relation": about_relation,
    "event": about_event,
    "plain": about_plain,
    "chinese": about_chinese,
    "noise": about_noise,
}


class Writer(Source):
    """Writes questions and documents (see above). The families are those of demo_samples.FAMILIES."""

    def question(self, family: str) -> Question:
        return _ABOUT[family](self)

    def document(self, question: Question, kind: str) -> Sample:
        """The core sentences of that kind, with other sentences before, between and after them."""
        sentences = question.cores[kind]()
        room = self.longest - len(sentences)
        for _ in range(self.chance.randint(0, max(0, room))):
            sentences.insert(self.chance.randint(0, len(sentences)), question.filler(kind != "random"))
        if question.title and self.chance.random() < 0.1:
            about = not kind.startswith(("random", "other_s"))
            title = question.title if about else self.invent.name()
            sentences.insert(0, Sentence(title, subject=about))
        return Sample(question.query, kind, tuple(sentences), question.joiner)

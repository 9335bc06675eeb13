"""The embedded model's tokenizer, and samples as token ids with everything that the losses need to know about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from demo_data import FAMILIES, Sample, Writer
from demo_words import passages
from tiny_checkpoint import QWEN_ADDED, QWEN_SPECIAL
from whyrank.prompting.evidence import opening_text
from whyrank.prompting.formats import Continuation, PromptFormat, builtin_formats
from whyrank.prompting.rendering import instruction_text, render
from whyrank.types import Document, DocumentError

__all__ = ["PRISM", "Encoded", "Encoder", "build_tokenizer", "micro_batches"]

PRISM: PromptFormat = builtin_formats()["prism"]

# Like Qwen's, with three changes for a model that can hardly spell: Chinese is split into single characters, a number into
# groups of two digits, the first with the space before it, and a bracket does not stick to the word after it.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{Han}| ?[\p{L}&&[^\p{Han}]]+| ?\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_VOCABULARY = 12288
# The cosine from which two tokens count as related, and how much higher it is for the same meaning.
_RELATED, _REACH = 0.3, 0.5


def _frame_pieces() -> list[str]:
    """The parts of the prompt between its control tokens. They never change, so each is one token: 16 instead of 180.

    The space before a field is left out, because it belongs to the field's first word."""
    (run,) = render(PRISM, "\0", Document("\0"), instruction_text(PRISM, None))  # type: ignore[misc]
    text = "".join(span.text for span in run)
    control = "|".join(re.escape(token) for token in (*QWEN_SPECIAL, *QWEN_ADDED))
    pieces = [
        piece.removesuffix(" ") if more else piece for part in re.split(control, text) for piece, more in _fields(part)
    ]
    return [piece for piece in pieces if len(piece) > 2]


def _fields(part: str) -> list[tuple[str, bool]]:
    texts = part.split("\0")
    return [(text, at < len(texts) - 1) for at, text in enumerate(texts)]


def build_tokenizer(seed: int, texts: Iterable[str] = (), questions: int = 200) -> Any:
    """Byte-level BPE with Qwen's control tokens, trained on these texts, on the generator's output and on plain prose."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    tokenizer.decoder = decoders.ByteLevel()
    frame = _frame_pieces()
    added = len(QWEN_SPECIAL) + len(QWEN_ADDED) + len(frame)
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - added, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*_corpus(seed, questions), *texts], trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in QWEN_SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in (*QWEN_ADDED, *frame)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _corpus(seed: int, questions: int) -> list[str]:
    writer = Writer(f"{seed}/vocabulary")
    texts = []
    for family, count in zip(FAMILIES, (12, 8, 0, 1.5, 1.5), strict=True):
        for _ in range(int(count * questions)):
            question = writer.question(family)
            sample = writer.document(question, "answer")
            texts += [
                f" {question.query}",
                f" {sample.document}",
                f" {sample.contribution}",
                f" {question.query.lower()}",
            ]
    prose = [f" {sentence}" for page in passages() for sentence in page]
    labels = ["yes", "no", "yes\n<contribution>", "</contribution>\n<evidence>", "</evidence>"]
    return [*texts, *prose * 2, *labels * 2000]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample as ids: the prompt, then the answer. All positions are indices into `ids`."""

    ids: list[int]
    prompt: int
    """How many of the ids belong to the prompt."""
    relevant: bool
    document: range
    shared: list[float]
    """For each of the document's tokens: 1 if it is in the query, less if only a related token is."""
    ends: list[tuple[int, bool, bool, bool]]
    """For each sentence: where it ends, and whether it has the subject, has the attribute, and answers."""
    nearness: list[float]
    """For each sentence, and finally for the document: the teacher's similarity to the query, if it is known."""
    target: float
    kind: str


class Encoder:
    def __init__(self, tokenizer: Any, vectors: np.ndarray | None = None) -> None:
        """`vectors`: the meanings of the tokens; without them, only equal tokens are related."""
        self._vectors = vectors
        self.tokenizer = tokenizer.backend_tokenizer
        self.end = int(tokenizer.eos_token_id)
        continuation = PRISM.continuation
        assert continuation is not None
        self._seams = self._answer_seams(continuation)
        self._no = [*self._encode("no"), self.end]
        self.labels = (self._encode("yes")[0], self._encode("no")[0])
        self._folded = {i: _folded(self.tokenizer.decode([i])) for i in range(self.tokenizer.get_vocab_size())}

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def _answer_seams(self, continuation: Continuation) -> list[list[int]]:
        """The ids before, between and after the texts of an answer."""
        closing = [section.close for section in continuation.sections]
        opening = [continuation.between + section.open for section in continuation.sections[1:]]
        between = [close + start for close, start in zip(closing, [*opening, ""], strict=True)]
        return [self._encode(text) for text in (opening_text(continuation), *between)]

    def answer(self, sample: Sample) -> list[int]:
        """What the model should write. The texts begin with a space, so that their first word is the same token as in a
        document."""
        if sample.target is not None:
            return []
        if not sample.relevant:
            return self._no
        texts = (f" {sample.contribution}", f" {sample.evidence}")
        ids = list(self._seams[0])
        for text, seam in zip(texts, self._seams[1:], strict=True):
            ids += self._encode(text) + seam
        return [*ids, self.end]

    def encode(self, sample: Sample) -> Encoded:
        runs = render(PRISM, sample.query, Document(sample.document), instruction_text(PRISM, None))
        assert not isinstance(runs, DocumentError)
        spans = [span for run in runs for span in run]
        starts = {"query": 0, "document": 0}
        text = ""
        for span in spans:
            if span.owner != "frame":
                starts[span.owner] = len(text)
            text += span.text
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        query = _tokens(encoding.offsets, starts["query"], len(sample.query))
        document = _tokens(encoding.offsets, starts["document"], len(sample.document))
        shared = self._shared(encoding.ids[query.start : query.stop], encoding.ids[document.start : document.stop])
        ends = self._ends(sample, encoding, starts["document"])
        nearness = [*(sentence.similarity for sentence in sample.sentences), sample.similarity]
        target = float(sample.relevant) if sample.target is None else sample.target
        ids = list(encoding.ids) + self.answer(sample)
        return Encoded(ids, len(encoding.ids), sample.relevant, document, shared, ends, nearness, target, sample.kind)

    def _shared(self, query: Sequence[int], document: Sequence[int]) -> list[float]:
        words = {self._folded[i] for i in query} - {""}
        same = [float(self._folded[i] in words) for i in document]
        if self._vectors is None or not same:
            return same
        nearest = (self._vectors[list(document)] @ self._vectors[list(query)].T).max(1)
        return [float(x) for x in np.maximum(same, np.clip((nearest - _RELATED) / _REACH, 0, 0.9))]

    def _ends(self, sample: Sample, encoding: Any, at: int) -> list[tuple[int, bool, bool, bool]]:
        ends = []
        for sentence in sample.sentences:
            end = at + len(sentence.text.rstrip()) - 1
            ends.append((encoding.char_to_token(end), sentence.subject, sentence.attribute, sentence.answers))
            at += len(sentence.text) + len(sample.joiner)
        return ends


def _folded(piece: str) -> str:
    """A token without case and space; "" if it says nothing on its own."""
    piece = piece.strip().lower()
    return piece if any(c.isalnum() for c in piece) and (len(piece) > 1 or not piece.isascii()) else ""


def _tokens(offsets: Sequence[tuple[int, int]], start: int, length: int) -> range:
    inside = [at for at, (low, high) in enumerate(offsets) if low < start + length and high > start and high > low]
    return range(inside[0], inside[-1] + 1) if inside else range(0)


def micro_batches(samples: Sequence[Encoded], tokens: int) -> list[list[Encoded]]:
    """Batches of samples of similar length, each with at most so many tokens when padded to its longest. Little is padding."""
    ordered = sorted(samples, key=lambda sample: -len(sample.ids))
    cuts, most = [0], len(ordered[0].ids)
    for at, sample in enumerate(ordered):
        if at > cuts[-1] and ((at + 1 - cuts[-1]) * most > tokens or len(sample.ids) < 0.8 * most):
            cuts.append(at)
            most = len(sample.ids)
    return [ordered[low:high] for low, high in pairwise([*cuts, len(ordered)])]

#!/usr/bin/env python3
"""How long `whyrank.grounding.ground` takes for a 1,000-word document and a 150-word evidence text, on one core.

The document is generated from a seed: sentences of 14 to 26 invented words, frequent and rare ones as in real text, with a
date, an amount or a name in every second sentence. The evidence retells some of its sentences with a few words changed.
Progress goes to stderr; the last line of stdout is one JSON document.

    scripts/bench_grounding.py --runs 200
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time

from whyrank.grounding import ground

_SYLLABLES = ("ba", "cor", "del", "fi", "gan", "hel", "jo", "ka", "lum", "mer", "nis", "po", "rat", "sel", "tur", "vo")
_FUNCTION_WORDS = ("the", "of", "and", "to", "in", "is", "was", "for", "with", "by", "from", "that", "it", "on")
_MONTHS = ("January", "March", "May", "June", "September", "November")


class Writer:
    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._words = ["".join(self._dice.choices(_SYLLABLES, k=self._dice.randint(2, 4))) for _ in range(900)]
        self._rarity = [1 / (rank + 5) for rank in range(len(self._words))]

    def sentence(self) -> str:
        words = [self._word() for _ in range(self._dice.randint(14, 26))]
        if self._dice.random() < 0.5:
            words.insert(len(words) // 2, self._fact())
        return f"{words[0].title()} {' '.join(words[1:])}."

    def _word(self) -> str:
        if self._dice.random() < 0.4:
            return self._dice.choice(_FUNCTION_WORDS)
        return self._dice.choices(self._words, self._rarity)[0]

    def _fact(self) -> str:
        number = self._dice.randint(2, 900)
        facts = (
            f"on {number % 28 + 1} {self._dice.choice(_MONTHS)} {1800 + number % 220}",
            f"for {number}.5 million euros",
            f"at {number % 99}%",
            f"by {self._dice.choice(self._words).title()} {self._dice.choice(self._words).title()}",
        )
        return self._dice.choice(facts)

    def retold(self, sentence: str) -> str:
        return " ".join(
            self._word() if word.islower() and self._dice.random() < 0.1 else word for word in sentence.split()
        )

    def texts(self, document_words: int, evidence_words: int) -> tuple[str, str]:
        sentences = [self.sentence() for _ in range(document_words // 10)]
        chosen = self._dice.sample(sentences[: document_words // 25], k=document_words // 50)
        evidence = " ".join(self.retold(sentence) for sentence in chosen)
        return " ".join(" ".join(sentences).split()[:document_words]), " ".join(evidence.split()[:evidence_words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--document-words", type=int, default=1000)
    parser.add_argument("--evidence-words", type=int, default=150)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    document, evidence = Writer(args.seed).texts(args.document_words, args.evidence_words)
    milliseconds = []
    for _ in range(args.runs):
        began = time.perf_counter()
        grounding = ground(evidence, document, "Who restored the bridge?")
        milliseconds.append(1000 * (time.perf_counter() - began))
    milliseconds.sort()
    print(f"{len(grounding.spans)} spans, {grounding.supported:.0%} supported", file=sys.stderr)
    result = {
        "median_ms": round(statistics.median(milliseconds), 3),
        "p95_ms": round(milliseconds[int(0.95 * (len(milliseconds) - 1))], 3),
        "runs": args.runs,
        "document_words": len(document.split()),
        "evidence_words": len(evidence.split()),
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

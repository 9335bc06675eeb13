#!/usr/bin/env python
"""How long `whyrank.grounding.ground` takes for a 1,000-word document and a 150-word evidence, on one core.

The document is made of sentences with names, numbers, dates and links as an encyclopedia has them, from a seed; the evidence
is the beginning of some of its sentences, slightly reworded. The last line of stdout is one JSON document.

    python scripts/bench_grounding.py --runs 200
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time

from whyrank.grounding import ground

_NAMES = [
    "Halden",
    "Corvex",
    "Brightwater",
    "Mirador",
    "Oslo",
    "Kingston",
    "Solheim",
    "Verrazzano",
    "Longjing",
    "Eddystone",
    "Fonseranes",
    "Poligny",
]
_NOUNS = [
    "bridge",
    "tower",
    "canal",
    "engine",
    "harbour",
    "reactor",
    "library",
    "glacier",
    "orchard",
    "market",
    "parliament",
    "vessel",
    "furnace",
    "theatre",
    "valley",
    "railway",
    "fortress",
    "garden",
    "workshop",
    "archive",
    "observatory",
    "district",
    "monument",
    "quarry",
]
_VERBS = [
    "opened",
    "closed",
    "rebuilt",
    "surveyed",
    "extended",
    "inspected",
    "financed",
    "measured",
    "described",
    "inherited",
    "painted",
    "restored",
]
_MORE = [
    "slowly",
    "nearby",
    "famous",
    "narrow",
    "ancient",
    "public",
    "wooden",
    "northern",
    "separate",
    "careful",
    "frequent",
    "modern",
    "granite",
    "shallow",
    "electric",
    "annual",
    "local",
    "central",
    "private",
    "heavy",
    "early",
    "common",
    "formal",
    "quiet",
]
_MONTHS = ["January", "March", "May", "June", "September", "November"]


def _clause(dice: random.Random) -> str:
    adjectives = dice.sample(_MORE, 3)
    nouns = dice.sample(_NOUNS, 3)
    where = f"the {adjectives[0]} {nouns[0]} near the {adjectives[1]} {nouns[1]}"
    return f"{where} was {dice.choice(_VERBS)} for a {adjectives[2]} {nouns[2]}"


def _sentence(dice: random.Random) -> str:
    opening = dice.choice(
        (
            f"On {dice.randint(1, 28)} {dice.choice(_MONTHS)} {dice.randint(1800, 2024)}",
            f"According to {dice.choice(_NAMES)} {dice.choice(_NAMES)}",
            f"At a cost of {dice.randint(2, 900)}.{dice.randint(1, 9)} million euros",
            "As it is often told in the region",
            "During the long years that followed",
        )
    )
    ending = dice.choice(
        (f", {dice.randint(1, 99)}% of it in {dice.choice(_NAMES)}", "", "", " once again", " with little help")
    )
    return f"{opening}, {_clause(dice)}{ending}."


def _texts(seed: int, document_words: int, evidence_words: int) -> tuple[str, str]:
    dice = random.Random(seed)
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < document_words:
        sentences.append(_sentence(dice))
    document = " ".join(" ".join(sentences).split()[:document_words])
    chosen = sorted(dice.sample(range(len(sentences)), len(sentences) // 3))
    evidence = " ".join(sentences[place].replace(" was ", " has been ") for place in chosen)
    return document, " ".join(evidence.split()[:evidence_words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--document-words", type=int, default=1000)
    parser.add_argument("--evidence-words", type=int, default=150)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    document, evidence = _texts(asked.seed, asked.document_words, asked.evidence_words)
    seconds = []
    for _ in range(asked.runs):
        began = time.perf_counter()
        found = ground(evidence, document, "Who restored the bridge?")
        seconds.append(time.perf_counter() - began)
    seconds.sort()
    result = {
        "median_ms": round(1000 * statistics.median(seconds), 3),
        "p95_ms": round(1000 * seconds[min(len(seconds) - 1, int(len(seconds) * 0.95))], 3),
        "fastest_ms": round(1000 * seconds[0], 3),
        "document_words": len(document.split()),
        "evidence_words": len(evidence.split()),
        "supported": round(found.supported, 3),
        "spans": len(found.spans),
        "runs": asked.runs,
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

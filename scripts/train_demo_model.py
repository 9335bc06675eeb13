#!/usr/bin/env python3
"""Train the model that comes with whyrank: a small Qwen3 that finds a query's words in a document and quotes them.

Everything follows from the seed: step N draws its samples from "SEED/N". Ctrl-C, SIGTERM or --minutes stop it after the step
in hand; the same command goes on from there. When it is done (or with --export) it writes a checkpoint for transformers and
vLLM into FOLDER/export; scripts/eval_demo_model.py measures that.

    scripts/train_demo_model.py /tmp/demo-training
    scripts/train_demo_model.py /tmp/demo-training --steps 12000     # longer, also after an earlier run
    scripts/train_demo_model.py /tmp/demo-training --export          # what there is so far
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve their own partners

import torch

from demo_data import FAMILIES, HARD, Question, Sample, Writer
from demo_model import Muon, Net, Shape, collate, counts, losses, write_checkpoint
from demo_tokens import Encoded, Encoder, build_tokenizer, micro_batches
from eval_demo_model import auc
from whyrank.evaluation.charts import Axis, Chart, Series

_WEIGHTS = {"words": 1.0, "label": 2.0, "shared": 0.5, "parts": 1.0, "answers": 1.0, "close": 0.3}
_SAVE_SECONDS = 120.0
_COLOURS = ("first", "second", "good", "bad", "muted", "warn-rule", "soft", "ink")


# What is learned when.


@dataclass(frozen=True, slots=True)
class Lesson:
    """The mixture at a step: how often each family comes, how often a negative is a hard one, how long documents are."""

    families: tuple[float, ...]
    hard: float
    longest: int


def lesson(step: int) -> Lesson:
    """First to look and to copy, among invented words and unrelated documents; then to tell near misses apart."""
    grown = min(1.0, step / 1200)
    start, final = (0.30, 0.25, 0.05, 0.04, 0.36), (0.36, 0.15, 0.20, 0.07, 0.22)
    families = tuple(a + (b - a) * grown for a, b in zip(start, final, strict=True))
    return Lesson(families, 0.4 + 0.5 * grown, 2 + round(4 * grown))


def samples(seed: int, step: int, count: int) -> Iterator[Sample]:
    """A step's samples: half of them answers."""
    plan = lesson(step)
    writer = Writer(f"{seed}/{step}")
    for at in range(count):
        # Now and then a document is long.
        writer.longest = 24 if plan.longest > 4 and at % 32 == 0 else plan.longest
        question = writer.question(writer.chance.choices(FAMILIES, plan.families)[0])
        yield writer.document(question, "answer" if at % 2 else _negative(question, plan.hard, writer.chance))


def _negative(question: Question, hard: float, chance: random.Random) -> str:
    kinds = [kind for kind in question.cores if kind not in ("answer", "random")]
    return chance.choice(kinds) if chance.random() < hard else "random"


# The run.


class Run:
    """All that a checkpoint holds, and one step of it."""

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        torch.manual_seed(asked.seed)
        torch.set_flush_denormal(True)  # gradients that fade away make some processors fifty times slower
        self.folder, self.asked = folder, asked
        self.tokenizer = _tokenizer(folder, asked.seed)
        self.encoder = Encoder(self.tokenizer)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.net = Net(Shape(len(self.tokenizer))).to(self.device)
        matrices = self.net.matrices()
        others = [p for p in self.net.parameters() if all(p is not m for m in matrices)]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=asked.rate, decay=0.02),
            torch.optim.AdamW(others, lr=asked.rate / 5, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step = 0
        self.seconds = 0.0
        if (folder / "latest.pt").exists():
            self._load()

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
        """One step; its mean losses and the share of right labels."""
        began = time.monotonic()
        encoded = [self.encoder.encode(s) for s in samples(self.asked.seed, self.step, self.asked.batch)]
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
        for optimizer, rate in zip(self.optimizers, (self.asked.rate, self.asked.rate / 5), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _rate_share(self) -> float:
        """Up at the start, level, and down to nothing over the last 40 %."""
        left = (self.asked.steps - self.step) / (0.4 * self.asked.steps)
        return float(min(1.0, (self.step + 1) / 60, max(0.02, left)))


def _tokenizer(folder: Path, seed: int) -> Any:
    from transformers import AutoTokenizer

    if not (folder / "tokenizer" / "tokenizer.json").exists():
        build_tokenizer(seed).save_pretrained(folder / "tokenizer")
    return AutoTokenizer.from_pretrained(folder / "tokenizer")


# Looking at it.


def quick_look(run: Run, count: int) -> dict[str, float]:
    """ROC AUC of the label on held-out words, and the share of answer tokens foretold; by kind of negative."""
    writer = Writer("look", "held-out")
    rows: list[Encoded] = []
    for at in range(count):
        question = writer.question(FAMILIES[at % 4])
        rows += [run.encoder.encode(writer.document(question, kind)) for kind in question.cores]
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
    told = {"auc": auc(answers, [m for found in margins.values() for m in found])}
    return told | {kind: auc(answers, found) for kind, found in sorted(margins.items())} | {"written": right / total}


def draw(folder: Path) -> None:
    """The losses and the looks at held-out samples so far, as pictures."""
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    looks = [name for name in ("auc", "written", *HARD) if any(name in row for row in rows)]
    for file, about, label, names in (
        ("losses.svg", "Losses in training, drawn up to 1", "loss", [*_WEIGHTS]),
        ("looks.svg", "ROC AUC on held-out words, and the share of answer tokens foretold", "ROC AUC, share", looks),
    ):
        lines = [
            Series(name, colour, [(row["step"], row[name]) for row in rows if name in row], "dots")
            for name, colour in zip(names, itertools.cycle(_COLOURS), strict=False)
        ]
        steps = Axis(0, max((row["step"] for row in rows), default=1), "step")
        (folder / file).write_text(Chart(about, steps, Axis(0, 1, label), lines, width=900).file())


class _Mean:
    """Means of what came since the last line."""

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
    parser.add_argument("--steps", type=int, default=6000, help="in all; the learning rate falls over the last 40 %%")
    parser.add_argument("--batch", type=int, default=64, help="samples a step")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens that are computed at once")
    parser.add_argument("--rate", type=float, default=0.02, help="Muon's learning rate; AdamW's is a fifth")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--look", type=int, default=100, help="steps between looks at held-out samples")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--export", action="store_true", help="only write FOLDER/export from the last checkpoint")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    run = Run(asked.folder, asked)
    if not asked.export:
        train(run)
    if asked.export or run.step >= asked.steps:
        write_checkpoint(run.net, run.tokenizer, asked.folder / "export")
        print(f"written: {asked.folder / 'export'} (step {run.step})")


if __name__ == "__main__":
    main()

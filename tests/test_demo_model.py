"""The embedded model's own code compared with what will run it: the same ids as whyrank, the same logits as transformers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

import train_demo_model
from demo_data import FAMILIES, Writer
from demo_model import Net, Shape, collate, losses, write_checkpoint
from demo_samples import Sample, Sentence
from demo_tokens import PRISM, Encoder, build_tokenizer, micro_batches
from tiny_material import write_material
from whyrank.prompting.evidence import opening_text, parse
from whyrank.prompting.tokens import EncodedDocument, PromptEncoder
from whyrank.types import Document


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(1, questions=20)


def encoded(tokenizer: Any, count: int = 3) -> list[Any]:
    encoder, writer = Encoder(tokenizer), Writer(2)
    questions = [writer.question(family) for family in FAMILIES for _ in range(count)]
    return [encoder.encode(writer.document(q, kind)) for q in questions for kind in q.cores]


def test_prompts_are_those_that_whyrank_makes(tokenizer: Any) -> None:
    encoder, writer = Encoder(tokenizer), Writer(3)
    served = PromptEncoder(PRISM, tokenizer.backend_tokenizer, 2048)
    for family in FAMILIES:
        sample = writer.document(writer.question(family), "answer")
        mine = encoder.encode(sample)
        (row,) = served.encode(sample.query, [Document(sample.document)], None, "tail")
        assert isinstance(row, EncodedDocument)
        assert tuple(mine.ids[: mine.prompt]) == row.prompts[0].ids
        opening = served.encode_frame(opening_text(PRISM.continuation))  # type: ignore[arg-type]
        assert tuple(mine.ids[mine.prompt :][: len(opening)]) == opening
        parsed = parse(PRISM.continuation, tokenizer.decode(mine.ids[mine.prompt : -1]))  # type: ignore[arg-type]
        assert parsed.complete and parsed.texts["evidence"].strip() == sample.evidence


def test_the_frame_costs_few_tokens(tokenizer: Any) -> None:
    served = PromptEncoder(PRISM, tokenizer.backend_tokenizer, 2048)
    (row,) = served.encode("a", [Document("b")], None, "tail")
    assert isinstance(row, EncodedDocument)
    assert len(row.prompts[0].ids) < 24


def test_helpers_point_at_the_ends_of_sentences(tokenizer: Any) -> None:
    for row in encoded(tokenizer):
        last = [at for at, *_ in row.ends][-1]
        assert last == row.document.stop - 1
        assert all(at in row.document for at, *_ in row.ends)
        assert len(row.shared) == len(row.document)


def test_a_written_checkpoint_computes_the_same(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(4)
    net = Net(Shape(len(tokenizer), hidden=64, layers=5, heads=2, head=32, inner=96))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    write_checkpoint(net, tokenizer, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(0, len(tokenizer), (2, 40))
    with torch.no_grad():
        wanted = net(ids)[-1] @ net.embedding.T
        given = model(input_ids=ids).logits
    assert model.dtype == torch.float32
    assert (wanted - given).abs().max() < 0.02 * wanted.abs().max()  # stored with eleven bits


def test_micro_batches_do_not_change_the_losses(tokenizer: Any) -> None:
    torch.manual_seed(5)
    net, rows = Net(Shape(len(tokenizer), hidden=64, heads=2, head=32, inner=96)), encoded(tokenizer, 1)
    labels = Encoder(tokenizer).labels
    parts = [losses(net, collate(part), labels) for part in micro_batches(rows, 500)]
    whole = losses(net, collate(rows), labels)
    assert len(parts) > 2
    for name, value in whole.items():
        assert torch.isclose(sum(part[name] for part in parts), value, rtol=1e-3), name


def test_a_document_that_only_the_teacher_judged_is_scored_and_nothing_is_written(tokenizer: Any) -> None:
    sample = Sample("a port", "teacher", (Sentence("A haven."), Sentence("A hill.")), target=0.7, similarity=0.5)
    row = Encoder(tokenizer).encode(sample)
    batch = collate([row])
    assert row.prompt == len(row.ids) and not len(batch.words[0])
    assert batch.labels[1].tolist() == pytest.approx([0.7])
    assert batch.near_all[1].tolist() == [0.5] and not len(batch.near[0])


def test_related_words_count_as_shared_in_part(tokenizer: Any) -> None:
    vectors = torch.zeros(len(tokenizer), 4)
    query, document = (tokenizer.encode(text, add_special_tokens=False) for text in (" lamp", " lamp desk chair"))
    desk, chair = document[-2:]
    vectors[[*query, desk], 0] = 1.0
    vectors[chair, 1] = 1.0
    row = Encoder(tokenizer, vectors.numpy()).encode(Sample(" lamp", "answer", (Sentence(" lamp desk chair"),)))
    lamp, *_, desk_share, chair_share = row.shared
    assert lamp == 1.0 and desk_share == pytest.approx(0.9) and chair_share == 0.0


def test_tokens_of_like_meaning_begin_near_each_other() -> None:
    torch.manual_seed(6)
    vectors = torch.zeros(8, 16)
    vectors[[1, 2], 0] = 1.0
    vectors[3, 1] = 1.0
    table = torch.nn.functional.normalize(
        Net(Shape(8, hidden=64, heads=2, head=32, inner=96), vectors).embedding, dim=-1
    )
    near = table @ table.T
    assert near[1, 2] > near[1, 3] + 0.2 and near[1, 2] < 0.99


@pytest.fixture
def material(tmp_path: Path) -> Path:
    return write_material(tmp_path / "material")


def test_a_stopped_run_goes_on_where_it_was(tokenizer: Any, tmp_path: Path, material: Path) -> None:
    options = argparse.Namespace(
        seed=1, rate=0.02, steps=10, batch=8, tokens=500, material=material, bfloat16=False, start=None
    )
    last = []
    for name, stops in (("one", ()), ("two", (1,))):
        folder = tmp_path / name
        tokenizer.save_pretrained(folder / "tokenizer")
        torch.save(torch.zeros(len(tokenizer), 16), folder / "vectors.pt")
        run = train_demo_model.Run(folder, options)
        for step in range(3):
            if step in stops:
                run.save()
                run = train_demo_model.Run(folder, options)
            figures = run.train_step()
        last.append(figures)
    assert last[0] == pytest.approx(last[1], rel=1e-4)


def test_a_run_begins_with_a_checkpoint(tokenizer: Any, tmp_path: Path, material: Path) -> None:
    torch.manual_seed(7)
    written = Net(Shape(len(tokenizer)))
    with torch.no_grad():
        for parameter in written.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    write_checkpoint(written, tokenizer, tmp_path / "start")
    (tmp_path / "run").mkdir()
    torch.save(torch.zeros(len(tokenizer), 16), tmp_path / "run" / "vectors.pt")
    options = argparse.Namespace(seed=1, rate=0.02, material=material, bfloat16=False, start=tmp_path / "start")
    run = train_demo_model.Run(tmp_path / "run", options)
    assert run.tokenizer.get_vocab() == tokenizer.get_vocab()
    for ours, theirs in zip(run.net.matrices(), written.matrices(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)

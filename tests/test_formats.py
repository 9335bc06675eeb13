"""Prompt files: those that ship are valid and fit the right checkpoints; wrong ones are refused with file and key."""

from pathlib import Path

import pytest

from whyrank.errors import CheckpointError, PromptFileError
from whyrank.prompting.formats import Rule, builtin_formats, fitting_format, load_format

GOOD = """
summary = "a prompt"
routes = ["generate"]
max_length = 512
runs = [["Query: ", { field = "query" }, " Document: ", { field = "document" }]]
[fits]
names = ["mine-*"]
architectures = ["Qwen3ForCausalLM"]
[labels]
positive = "yes"
negative = "no"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_the_families_of_the_plan_are_there() -> None:
    assert set(builtin_formats()) == {
        "bge-reranker",
        "bge-v2-gemma",
        "claims-chatml",
        "ctxl-v2",
        "first",
        "lighton-lw",
        "lighton-lw-4b",
        "minicheck-7b",
        "minicheck-deberta",
        "minicheck-roberta",
        "multi-hop",
        "mxbai-v2",
        "prism",
        "qanchor",
        "querit",
        "qwen3-reranker",
        "qwen3-vl-reranker",
        "rankzephyr",
        "zerank",
    }


def test_a_users_file_loads(tmp_path: Path) -> None:
    assert load_format(write(tmp_path, GOOD)).name == "mine"


def test_a_fingerprint_is_computed_once_and_a_changed_copy_has_another(tmp_path: Path) -> None:
    fmt = load_format(write(tmp_path, GOOD))
    assert fmt.fingerprint is fmt.fingerprint  # the same object
    changed = fmt.model_copy(update={"score": Rule(scale=2.0)})
    assert changed.fingerprint != fmt.fingerprint == fmt.model_copy(update={"max_length": 64}).fingerprint
    assert fmt == load_format(tmp_path / "mine.toml") and "fingerprint" not in fmt.model_dump()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('summary = "a prompt"', "", "summary: Field required"),
        ("max_length = 512", "max_length = 3", "max_length: Input should be greater than or equal to 16"),
        ("max_length = 512", 'max_lenght = "512"', "max_lenght: Extra inputs are not permitted"),
        ('"generate"', '"generte"', "routes.0: Input should be 'generate', 'classify' or 'encoder'"),
        ('{ field = "query" }', '{ field = "qurey" }', "no such field ['qurey']"),
        ('{ field = "document" }', '"document"', "the field 'document' must occur exactly once, not 0 times"),
        ('negative = "no"', "", "'margin' needs labels.positive and labels.negative"),
        ('[labels]\npositive = "yes"\nnegative = "no"', '[score]\nrule = "logit"', "name them"),
        ('{ field = "query" }', '{ field = "query", text = "x" }', "either a non-empty text or a field"),
        ("[fits]", "[instruction]\n[fits]", "the table and the field in runs must come together"),
        ("[labels]", "[labels", "not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_file_and_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(PromptFileError) as refused:
        load_format(write(tmp_path, GOOD.replace(old, new)))
    assert message in str(refused.value)
    assert "mine.toml: " in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match=r"gone\.toml: cannot be read"):
        load_format(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("model", "architecture", "prompt"),
    [
        ("infgrad/Prism-Qwen3.5-Reranker-0.8B", "Qwen3_5ForCausalLM", "prism"),
        # Its authors' own harness mistakes this one for a Qwen3-Reranker.
        ("infgrad/Prism-Qwen3-Reranker-4B-exp", "Qwen3ForCausalLM", "prism"),
        ("Qwen/Qwen3-Reranker-0.6B", "Qwen3ForCausalLM", "qwen3-reranker"),
        ("Qwen/Qwen3-VL-Reranker-2B", "Qwen3VLForConditionalGeneration", "qwen3-vl-reranker"),
        ("tomaarsen/Qwen3-Reranker-0.6B-seq-cls", "Qwen3ForSequenceClassification", "qanchor"),
        ("souflex56/qanchor-reranker-qwen3-0.6b-merged", "Qwen3ForSequenceClassification", "qanchor"),
        ("Querit/Querit", "QueritModel", "querit"),
        ("Querit/Querit-4B", "QueritModel", "querit"),
        ("minhhungg/multi-hop-rag-reranker", "DebertaV2ForSequenceClassification", "multi-hop"),
        ("BAAI/bge-reranker-v2-m3", "XLMRobertaForSequenceClassification", "bge-reranker"),
        ("hotchpotch/japanese-bge-reranker-v2-m3-v1", "XLMRobertaForSequenceClassification", "bge-reranker"),
        ("BAAI/bge-reranker-large", "XLMRobertaForSequenceClassification", "bge-reranker"),
        ("mixedbread-ai/mxbai-rerank-large-v2", "Qwen2ForCausalLM", "mxbai-v2"),
        ("BAAI/bge-reranker-v2-gemma", "GemmaForCausalLM", "bge-v2-gemma"),
        ("zeroentropy/zerank-1-small", "Qwen3ForCausalLM", "zerank"),
        ("ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b", "Qwen3ForCausalLM", "ctxl-v2"),
        ("/models/prism-tuned/", "Qwen3ForCausalLM", "prism"),
        ("castorini/rank_zephyr_7b_v1_full", "MistralForCausalLM", "rankzephyr"),
        ("rryisthebest/First_Model", "MistralForCausalLM", "first"),
        ("lightonai/LightOn-rerank-LW-0.8B", "Qwen3_5ForConditionalGeneration", "lighton-lw"),
        ("lightonai/LightOn-rerank-LW-4B", "Qwen3_5ForConditionalGeneration", "lighton-lw-4b"),
        ("bespokelabs/Bespoke-MiniCheck-7B", "InternLM2ForCausalLM", "minicheck-7b"),
        ("lytang/MiniCheck-RoBERTa-Large", "RobertaForSequenceClassification", "minicheck-roberta"),
        ("lytang/MiniCheck-DeBERTa-v3-Large", "DebertaV2ForSequenceClassification", "minicheck-deberta"),
    ],
)
def test_the_right_prompt_fits(model: str, architecture: str, prompt: str) -> None:
    assert fitting_format(model, [architecture]).name == prompt


def test_an_unknown_name_is_not_guessed_from_its_architecture() -> None:
    with pytest.raises(CheckpointError) as refused:
        fitting_format("acme/my-finetune", ["Qwen3ForCausalLM"])
    assert "acme/my-finetune: no prompt fits" in str(refused.value)
    assert "prism, qwen3-reranker, zerank" in str(refused.value)
    assert "--prompt" in str(refused.value)


def test_a_prompt_asked_for_must_fit_the_architecture() -> None:
    assert fitting_format("acme/x", ["Qwen3ForCausalLM"], "prism").name == "prism"
    with pytest.raises(CheckpointError, match="architecture is BertModel, but prompt 'prism' is for"):
        fitting_format("acme/x", ["BertModel"], "prism")
    with pytest.raises(PromptFileError, match=r"neither a \.toml file nor one of bge-reranker, bge-v2-gemma"):
        fitting_format("acme/x", ["BertModel"], "prsm")


def test_the_fingerprint_follows_what_can_change_a_score(tmp_path: Path) -> None:
    first = load_format(write(tmp_path, GOOD)).fingerprint
    assert load_format(write(tmp_path, GOOD.replace("a prompt", "other words"))).fingerprint == first
    assert load_format(write(tmp_path, GOOD.replace("Query: ", "Query:"))).fingerprint != first
    assert load_format(write(tmp_path, GOOD.replace('"no"', '"No"'))).fingerprint != first

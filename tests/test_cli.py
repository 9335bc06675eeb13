"""The command as a process: one JSON document on stdout, text for people on stderr, exit codes."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from whyrank.__main__ import app
from whyrank.config import EngineConfig
from whyrank.options import options_of


def whyrank(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "whyrank", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def encoder(checkpoint: Callable[[str], Path]) -> list[str]:
    """The model that starts fastest."""
    return ["--model", str(checkpoint("deberta")), "--prompt", "multi-hop"]


def test_json_is_one_document_of_the_documented_shape(encoder: list[str], tmp_path: Path) -> None:
    documents = tmp_path / "documents.jsonl"
    rows = [
        {"text": "Water boils at 100 °C.", "id": "a", "title": "Water"},
        {"text": "bad", "id": "b", "hop": "one"},
        {"text": "word " * 900, "id": "c", "metadata": {"hop": 1}},
    ]
    documents.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    done = whyrank(
        "rerank", *encoder, "-q", "boiling point", "-d", str(documents), "--json", "--max-tokens-per-doc", "40"
    )
    assert done.returncode == 1, done.stderr  # "b" has no score
    answer = json.loads(done.stdout)
    assert set(answer) == {"results", "usage", "evidence_usage", "model", "prompt", "degraded"}
    assert set(answer["usage"]) == {"prompt_tokens", "cached_tokens", "computed_tokens", "output_tokens"}
    by_id = {row["id"]: row for row in answer["results"]}
    keys = {"index", "id", "rank", "score", "margin", "label_mass", "truncation", "neutralised", "error"}
    assert set(by_id["a"]) == keys
    assert by_id["a"]["error"] is None and 0 < by_id["a"]["score"] < 1
    assert by_id["b"]["error"] == {
        "code": "bad_feature",
        "message": "metadata 'hop' is 'one': it must be a whole number",
    }
    assert by_id["c"]["truncation"]["truncated"] is True
    assert by_id["c"]["truncation"]["used_tokens"] == 40 < by_id["c"]["truncation"]["original_tokens"]
    assert answer["prompt"].startswith("multi-hop@")


def test_a_table_for_people(encoder: list[str]) -> None:
    done = whyrank("rerank", *encoder, "-q", "boiling [b]point", "Water [red]boils[/]", "Everest", "--top-n", "1")
    assert done.returncode == 0, done.stderr
    assert "boiling [b]point" in done.stdout
    assert "█" in done.stdout
    assert done.stdout.count("│ 1 │") == 1 and "│ 2 │" not in done.stdout


def with_flipped_bits(weights: torch.Tensor) -> torch.Tensor:
    """Of each number, the highest bit of the exponent."""
    return (weights.view(torch.int32) ^ 1 << 30).view(torch.float32)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (torch.zeros_like, "gives different texts the same score"),
        (lambda weights: torch.full_like(weights, math.nan), "the warm-up pair has no score"),
        (with_flipped_bits, "the warm-up pair has no score"),
    ],
    ids=["zeros", "NaN", "flipped bits"],
)
def test_broken_weights_give_no_scores(
    broken: Callable[[torch.Tensor], torch.Tensor],
    message: str,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint("deberta"), folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: broken(tensor) for name, tensor in weights.items()}, folder / "model.safetensors")
    done = whyrank("rerank", "-m", str(folder), "--prompt", "multi-hop", "-q", "q", "one", "two", "--json")
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_plain_lines_come_from_stdin(encoder: list[str]) -> None:
    done = whyrank("rerank", *encoder, "-q", "q", "-d", "-", "--json", stdin="first\r\n\n  second\n")
    assert done.returncode == 0, done.stderr
    assert sorted(row["index"] for row in json.loads(done.stdout)["results"]) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["-q", "", "text"], None, "error: query is empty"),
        (["-q", "q"], None, "error: documents is empty"),
        (["-q", "q", "text", "-d", "-"], "x", "give them as arguments or with --documents, not both"),
        (["-q", "q", "-d", "gone.jsonl"], None, "error: --documents gone.jsonl: No such file"),
        (["-q", "q", "-d", "-"], '{"text": "a"}\n{"txt": "b"}', "error: -, line 2 has no 'text': its keys are ['txt']"),
        (["-q", "q", "-d", "-"], '{"text": "a"}\nplain', "error: -, line 2: not JSON"),
        (["-q", "q", "text", "--instruction", "be kind"], None, "prompt 'multi-hop' has no place for one"),
        (["-q", "q", "text", "--truncation", "left"], None, "truncation is 'left'"),
        (["-q", "q", "text", "--max-tokens-per-doc", "0"], None, "max_tokens_per_doc is 0"),
        (["-q", "q", "text", "--mode", "evidence"], None, "mode 'evidence': this route only scores"),
        (["-q", "q", "text", "--dtype", "fp32"], None, "dtype is 'fp32'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], stdin: str | None, message: str, encoder: list[str]
) -> None:
    done = whyrank("rerank", *encoder, *arguments, stdin=stdin)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_finds_no_room_says_which_options_make_some() -> None:
    done = whyrank("rerank", "-m", "demo", "-q", "q", "text", "--kv-cache-gib", "0.001")
    assert done.returncode == 2 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert "KV cache is needed" in last and "a larger kv_cache_gib or a smaller max_length" in last


def test_formats_are_listed() -> None:
    listed = json.loads(whyrank("formats", "--json").stdout)
    assert {row["name"] for row in listed} >= {"prism", "qwen3-reranker", "multi-hop"}
    folder = Path(whyrank("formats", "--where").stdout.strip())
    assert (folder / "prism.toml").is_file()
    assert "fixed" in whyrank("formats").stdout


def test_doctor_compares_with_transformers_and_gives_a_verdict(checkpoint: Callable[[str], Path]) -> None:
    done = whyrank("doctor", str(checkpoint("qwen3")), "--prompt", "prism", "--kv-cache-gib", "0.5")
    words = " ".join(done.stdout.replace("│", " ").split())
    assert "against transformers on 11 pairs: score within" in words
    assert "'yes' = " in words
    assert "from the cache cold" in words
    # Random weights give the labels next to no probability, and the doctor must notice it.
    assert done.returncode == 1, done.stderr
    assert "do not trust these scores: label mass" in words


def test_doctor_trusts_what_it_can_check(checkpoint: Callable[[str], Path]) -> None:
    done = whyrank("doctor", str(checkpoint("deberta")), "--prompt", "multi-hop")
    assert done.returncode == 0, done.stdout + done.stderr
    words = " ".join(done.stdout.replace("│", " ").split())
    assert "can be trusted as served" in words
    assert "this route has no prefix cache" in words


def test_evidence_as_events_and_as_panels(checkpoint: Callable[[str], Path]) -> None:
    model = ["--model", str(checkpoint("qwen3")), "--prompt", "prism", "--kv-cache-gib", "0.5", "--mode", "evidence"]
    model += ["--evidence-min-score", "0", "--evidence-top-n", "2", "--max-evidence-tokens", "12"]
    done = whyrank("rerank", *model, "-q", "boiling point", "Water boils.", "Everest", "Tea", "--jsonl")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[:4] == ["score"] * 3 + ["ranking"]
    assert kinds.count("evidence") == 2 and kinds[-1] == "done" and "delta" in kinds
    written = [row for row in events[-1]["data"]["results"] if "evidence" in row]
    assert len(written) == 2
    assert set(written[0]["grounding"]) >= {
        "supported",
        "altered",
        "unverified",
        "sentences",
        "spans",
        "unsupported",
        "flags",
    }
    deltas = [e["data"]["text"] for e in events if e["event"] == "delta" and e["data"]["index"] == written[0]["index"]]
    assert written[0]["contribution"].split()[0] in "".join(deltas)

    done = whyrank("rerank", *model, "-q", "boiling point", "Water boils.", "Everest", "Tea")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("supported by the document") == 2


def test_engine_options_and_their_defaults_are_those_of_the_config() -> None:
    wanted = {option.name: option.default for option in options_of(EngineConfig).values() if option.flag}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in ("rerank", "doctor"):
        offered = {parameter.name: parameter.default for parameter in commands[name].params}
        assert {option: offered[option] for option in wanted} == wanted


@pytest.mark.parametrize("command", [[], ["rerank"], ["doctor"], ["formats"]])
def test_help_is_there(command: list[str]) -> None:
    done = whyrank(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout

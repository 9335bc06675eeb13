"""What cannot start fails before an engine is started, with one line that names the item and the remedy."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whyrank.checkpoints import make_plan
from whyrank.config import EngineConfig
from whyrank.errors import InvalidRequest, WhyrankError
from whyrank.serving.launch import check_machine, serve

Change = Callable[[Path], Any]
TRUNCATED, AGAIN = "truncated or corrupt", "copy the checkpoint again"


def without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def holding(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        table = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(table | values))

    return change


def folder_instead(name: str) -> Change:
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()

DAMAGED: list[tuple[str, Change, tuple[str, ...]]] = [
    ("no config", without("config.json"), ("no config.json in this folder; it holds",)),
    ("cut config", cut("config.json", 200), ("config.json", TRUNCATED, AGAIN)),
    ("empty config", holding("config.json", b""), ("config.json", TRUNCATED)),
    ("binary config", holding("config.json", b"\xff\xfe\x00"), ("config.json", TRUNCATED)),
    ("list as config", holding("config.json", b"[]"), ("config.json: is not a JSON object",)),
    ("unreadable config", folder_instead("config.json"), ("config.json: cannot be read (Is a directory)",)),
    ("no tokenizer", without("tokenizer.json"), ("no tokenizer.json in this folder; copy it",)),
    ("cut tokenizer", cut("tokenizer.json", 5000), ("tokenizer.json", TRUNCATED, AGAIN)),
    ("empty tokenizer", holding("tokenizer.json", b"{}"), ("its tokenizer cannot be loaded", "save_pretrained")),
    ("cut tokenizer config", cut("tokenizer_config.json", 9), ("tokenizer_config.json", TRUNCATED)),
    ("no architecture", config(architectures=None), ("its architecture is unknown, but prompt 'prism' is for",)),
    ("other architecture", config(architectures=["BertModel"]), ("its architecture is BertModel",)),
    ("architecture is text", config(architectures="Qwen3ForCausalLM"), ("architectures is 'Qwen3ForCausalLM', not a",)),
    ("few positions", config(max_position_embeddings=50), ("has 50 positions", "578 are reserved for the answer")),
    ("too few positions", config(max_position_embeddings=700), ("max_length of at least", "kept for the answer")),
    ("positions are text", config(max_position_embeddings="x"), ("max_position_embeddings is 'x', not a number",)),
    ("no weights", without("model.safetensors"), ("no weights in this folder", AGAIN)),
    ("garbage as weights", holding("model.safetensors", b"garbage" * 100), ("model.safetensors", TRUNCATED, AGAIN)),
    ("cut weights", cut("model.safetensors", 100_000), ("model.safetensors", TRUNCATED, AGAIN)),
    ("empty weights", holding("model.safetensors", b""), ("model.safetensors", TRUNCATED)),
    (
        "missing shard",
        holding("model.safetensors.index.json", INDEX),
        ("model-00001-of-00002.safetensors", "is missing"),
    ),
    ("cut index", holding("model.safetensors.index.json", INDEX[:20]), ("index.json", TRUNCATED)),
]


@pytest.mark.parametrize(("change", "parts"), [pytest.param(c, p, id=name) for name, c, p in DAMAGED])
def test_a_damaged_checkpoint_is_named_with_its_file(
    change: Change, parts: tuple[str, ...], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("qwen3"), folder)
    change(folder)
    expect_one_line(EngineConfig(str(folder), prompt="prism"), parts)


def expect_one_line(config: EngineConfig, parts: tuple[str, ...]) -> None:
    with pytest.raises(WhyrankError) as refused:
        make_plan(config)
    message = str(refused.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


OPTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"max_length": 0}, ("max_length is 0: give a positive number",)),
    ({"max_length": 50}, ("max_length 50 is too short", "at least")),
    ({"max_length": 1_000_000}, ("has 16384 positions", "at most 15806")),
    ({"dtype": "float8"}, ("dtype is 'float8': choose from auto",)),
    ({"route": "foo"}, ("route is 'foo': choose from",)),
    ({"route": "encoder"}, ("route encoder: prompt 'prism' allows generate, classify",)),
    ({"prompt": "nope"}, ("--prompt nope: neither a .toml file nor one of",)),
    ({"prompt": "/no/such/prompt.toml"}, ("/no/such/prompt.toml: cannot be read",)),
    ({"prompt": "multi-hop"}, ("prompt 'multi-hop' is for DebertaV2ForSequenceClassification",)),
    ({"prompt": None}, ("no prompt fits this name", "--prompt NAME")),
    ({"kv_cache_gib": 0.0}, ("kv_cache_gib is 0.0: give a positive number",)),
    ({"calibration": "/no/such/file.json"}, ("calibration /no/such/file.json: No such file",)),
]


@pytest.mark.parametrize(("options", "parts"), OPTIONS, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_named(
    options: dict[str, Any], parts: tuple[str, ...], checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(WhyrankError) as refused:
        make_plan(EngineConfig(str(checkpoint("qwen3")), **{"prompt": "prism", **options}))
    assert all(part in str(refused.value) for part in parts), refused.value


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("", "model is empty"),
        ("/no/such/folder", "no such folder"),
        ("./none", "no such folder"),
        (__file__, "is a file: give the folder"),
        ("acme/not-there", "neither a folder with a config.json nor a name"),
        ("a/b/c", "neither a folder with a config.json nor a name"),
        ("http://host/model", "neither a folder with a config.json nor a name"),
    ],
)
def test_a_model_that_is_not_there_is_named(model: str, part: str) -> None:
    with pytest.raises(WhyrankError, match=part):
        make_plan(EngineConfig(model))


def test_a_gguf_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    messages = ("vLLM cannot read .gguf files: give the checkpoint that it was converted from", "gguf_file=NAME")
    expect_one_line(EngineConfig(str(tmp_path)), ("no config.json", *messages))
    expect_one_line(EngineConfig(str(tmp_path / "model.gguf")), ("is a file", *messages))


# Limits of the machine.


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InvalidRequest, match=rf"127.0.0.1, port {port} \(Address already in use\): choose another --port"
        ):
            check_machine("127.0.0.1", port)
    check_machine("127.0.0.1", port)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(
        InvalidRequest, match=r"cannot listen at 192.0.2.1, port 18123 \(Cannot assign requested address"
    ):
        check_machine("192.0.2.1", 18123)


@pytest.mark.parametrize("name", ["DOCUMENTS", "CHARACTERS", "BODY_MIB", "WAITING_DOCUMENTS"])
def test_a_wrong_limit_is_named_before_anything_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"WHYRANK_MAX_{name}", "many")
    with pytest.raises(InvalidRequest, match=f"WHYRANK_MAX_{name} is 'many': give a whole number"):
        check_machine("127.0.0.1", 0)


def test_too_few_open_files_are_named() -> None:
    code = "from whyrank.serving.launch import check_machine; check_machine('127.0.0.1', 0)"
    done = subprocess.run(
        ["bash", "-c", f'ulimit -n 200; exec {sys.executable} -c "{code}"'], capture_output=True, text=True, check=False
    )
    assert "only 200 files may be open at once, but a server needs 1024: raise `ulimit -n`" in done.stderr


@pytest.mark.parametrize(("flag", "positions"), [("2k", 2000), ("1K", 1024), ("1.5K", 1536), ("2048", 2048)])
def test_lengths_are_read_as_vllm_writes_them(flag: str, positions: int, checkpoint: Callable[[str], Path]) -> None:
    flags = ["--max-model-len", flag]
    serve(EngineConfig(str(checkpoint("qwen3")), "prism"), flags, dry_run=True)
    assert make_plan(EngineConfig(str(checkpoint("qwen3")), prompt="prism"), positions=positions)


@pytest.mark.parametrize("flag", ["x", "1q", ""])
def test_a_length_that_is_none_is_refused(flag: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid vLLM flags"):
        serve(EngineConfig("demo"), [f"--max-model-len={flag}"], dry_run=True)

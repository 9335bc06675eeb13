"""Chat templates for tests: of rerankers, as published or in that manner, and of chat models."""

from __future__ import annotations

from cards import PRISM_INSTRUCTION

__all__ = [
    "ALWAYS_THINKING",
    "DATED",
    "FIRST",
    "GEMMA",
    "LOOP",
    "PARTS",
    "PLAIN",
    "PRISM",
    "QWEN3",
    "THINKING",
    "ZERANK",
]

# As published: in Qwen3-Reranker's tokenizer_config.json, by vLLM for Nemotron, and in the manner of zerank-2 and Prism.
FIRST = 'messages | selectattr("role", "eq", "{}") | map(attribute="content") | first'
QWEN3 = (
    f"{{%- set instruction = {FIRST.format('system')} | "
    'default("Given a web search query, retrieve relevant passages that answer the query") -%}\n'
    f"{{%- set query_text = {FIRST.format('query')} -%}}\n{{%- set document_text = {FIRST.format('document')} -%}}\n"
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {{ instruction }}\n'
    "<Query>: {{ query_text }}\n<Document>: {{ document_text }}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n\n"
)
PRISM = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    f"<|im_end|>\n<|im_start|>user\n<Instruct>: {PRISM_INSTRUCTION}\n<Query>: {{{{ {FIRST.format('query')} }}}}\n"
    f"<Document>: {{{{ {FIRST.format('document')} }}}}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n\n"
)
ZERANK = (
    f'{{%- set instruction = {FIRST.format("system")} | default("") -%}}\n'
    "<|im_start|>system\n{% if instruction %}<query>{% endif %}"
    f"{{{{ {FIRST.format('query')} }}}}"
    "{% if instruction %}</query>\n<instruction>{{ instruction }}</instruction>{% endif %}<|im_end|>\n"
    f"<|im_start|>user\n{{{{ {FIRST.format('document')} }}}}<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = f"question:{{{{ {FIRST.format('query')} }}}} \n \n passage:{{{{ {FIRST.format('document')} }}}}"
LOOP = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS = LOOP.replace("message.content", 'message.content[0]["text"]')

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n{{ message.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
THINKING = LOOP.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)
ALWAYS_THINKING = LOOP.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
DATED = "Today is {{ strftime_now('%d %B %Y') }}.{% if tools %}{{ tools }}{% endif %}\n" + LOOP

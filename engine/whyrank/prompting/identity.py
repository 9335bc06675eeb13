"""What a Ranking calls its prompt: the prompt file's fingerprint and, where a call brought an instruction of its own, `+` and a
digest of that. Margins of different prompts mean different things."""

from __future__ import annotations

import hashlib

__all__ = ["file_part", "with_instruction"]

_MARK = "+"


def with_instruction(fingerprint: str, instruction: str) -> str:
    return f"{fingerprint}{_MARK}{hashlib.sha256(instruction.encode()).hexdigest()[:12]}"


def file_part(prompt: str) -> str:
    """The same for every instruction."""
    return prompt.partition(_MARK)[0]

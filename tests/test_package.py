"""The package as a whole: light to import, layered as planned, complete in its wheel, and as its README says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

import whyrank

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "engine" / "whyrank"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_public_names_are_sorted_and_there() -> None:
    assert whyrank.__all__ == sorted(whyrank.__all__)
    assert all(hasattr(whyrank, name) for name in whyrank.__all__)


def test_import_is_light() -> None:
    heavy = {"torch", "vllm", "transformers", "tokenizers", "numpy", "scipy", "jinja2", "pytrec_eval"}
    ours = {"pydantic", "httpx", "whyrank.grounding", "whyrank.pipeline"}
    for module, slow in (("whyrank", ours), ("whyrank.__main__", set())):
        assert run(f"import sys, {module}; print({heavy | slow} & set(sys.modules))").strip() == "set()"


# The files and folders that may import each package, anywhere in their code. All others may not.
ALLOWED = {
    "bm25s": {"retrieval/bm25.py"},
    "haystack": {"adapters/haystack.py"},
    "langchain_core": {"adapters/langchain.py"},
    "llama_index": {"adapters/llama_index.py"},
    "mcp": {"adapters/mcp.py"},
    "mteb": {"adapters/mteb.py"},
    "rerankers": {"adapters/rerankers.py"},
    "sentence_transformers": {"runtimes/reference.py"},
    "vllm": set(),  # by name through runtimes/vllm_compat.py
    "fastapi": {
        f"serving/{name}.py"
        for name in (
            "bodies",
            "connections",
            "context",
            "examples",
            "guarded_route",
            "handlers",
            "http_errors",
            "middleware",
            "openapi",
            "plugin",
            "responses",
            "standalone",
            "start_lines",
            "compat/cohere",
            "compat/infinity",
            "compat/jina",
            "compat/tei",
            "compat/vllm",
            "compat/voyage",
            "compat/xinference",
            "native/errors",
            "native/models",
            "native/pages",
            "native/rerank",
            "native/score",
            "native/stream",
        )
    }
    | {"cluster/ray_serve.py"},
    "ray": {"cluster/ray_data.py", "cluster/ray_serve.py"},
    "opentelemetry": {"runtimes/vllm_compat.py", "serving/tracing.py"},
    "httpx": {"client/async_client.py", "client/transport.py"},
    "prometheus_client": {"serving/metrics.py", "serving/standalone.py"},
    "uvicorn": {"serving/connections.py", "serving/standalone.py", "serving/start_lines.py"},
    "torch": {f"runtimes/{name}.py" for name in ("cpu_kernels", "cpu_lora", "cpu_norms", "encoder", "reference")}
    | {"adapters/mteb.py", "adapters/sentence_transformers.py", "dtypes.py", "quantize.py", "torchvision_ops.py"},
    "transformers": {f"{name}.py" for name in ("checkpoint_files", "checkpoints", "retrieval/dense")}
    | {"runtimes/encoder.py", "runtimes/reference.py"},
    "tokenizers": {"prompting/templates.py", "prompting/tokens.py", "checkpoints.py", "process.py"},
    "pydantic": {
        "adapters/base.py",
        "adapters/mcp.py",
        "cluster/ray_serve.py",
        "prompting/formats.py",
        "serving/compat/cohere.py",
        "serving/compat/tei.py",
        "serving/compat/vllm.py",
        "serving/native/requests.py",
        "wire/requests.py",
        "wire/responses.py",
    },
    "jinja2": {"evaluation/charts.py", "shipped.py"},
    "pytrec_eval": {"evaluation/measures.py"},
    "scipy": {f"evaluation/{name}.py" for name in ("calibrate", "consistency")},
    "typer": {
        f"cli/{name}.py"
        for name in (
            *("batch", "calibrate", "claims", "common", "compare", "evaluate", "flags", "install", "mcp", "rerank"),
            *("quantize", "reproduce", "retrieve", "serve"),
        )
    },
    "rich": {f"cli/{name}.py" for name in ("claims", "common", "evaluate", "render", "terminal")},
    "xgrammar": {"prompting/evidence.py"},
}


def imports_of(code: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_heavy_packages_stay_in_their_rooms(package: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == package for name in imports_of(ast.parse(path.read_text())))
    }
    assert users <= ALLOWED[package]


def test_nobody_takes_anothers_private_names() -> None:
    for path in PACKAGE.rglob("*.py"):
        imports = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom))
        private = [
            alias.name
            for node in imports
            for alias in node.names
            if alias.name.startswith("_") and not alias.name.endswith("__")
        ]
        assert not private, path


def room_of(module: str) -> str:
    """A folder counts as one unit; but within prompting/, the layers among its modules matter, too."""
    first, *rest = module.split(".")[1:]
    return f"{first}/{rest[0]}" if first == "prompting" else first


def test_pure_rooms_know_nothing_above_them() -> None:
    pure = {"errors": set(), "types": {"errors"}, "prompting/scoring": set()}
    pure["prompting/formats"] = {"config", "errors", "prompting/scoring", "types"}
    pure["prompting/identity"] = set()
    pure["prompting/rendering"] = {"errors", "prompting/formats", "prompting/identity", "types"}
    pure["prompting/splitting"] = {"prompting/rendering"}
    pure["prompting/encoded"] = {"prompting/rendering"}
    pure["prompting/fitting"] = {"errors", "prompting/encoded", "prompting/formats", "types"}
    pure["prompting/tokens"] = {"errors", "types"} | {
        f"prompting/{name}" for name in ("encoded", "fitting", "formats", "rendering", "splitting")
    }
    pure["prompting/listwise"] = {"errors", "prompting/formats", "prompting/rendering", "prompting/tokens", "types"}
    pure["prompting/templates"] = {"config", "errors", "prompting/formats", "prompting/rendering", "types"}
    pure["options"] = {"errors"}
    pure["request"] = {"errors", "options", "types"}
    pure["prompting/evidence"] = {"errors", "prompting/formats", "types"}
    pure["grounding/__init__"] = {"grounding", "types"}
    pure["packing"] = {"errors", "types"}
    pure["calibration"] = {"errors", "jsonl", "prompting/identity", "types"}
    pure["pipeline/request_state"] = {
        "calibration",
        "prompting/scoring",
        "prompting/tokens",
        "ranking",
        "request",
        "types",
    }
    pure["pipeline/deadline"] = set()
    pure["pipeline/turns"] = set()
    pure["ranking"] = {"packing", "types"}
    for room in ("trec", "data", "measures", "consistency", "significance", "results", "charts"):
        pure[f"evaluation/{room}"] = {"errors", "evaluation", "jsonl", "types"}
    pure["fan_out"] = set()
    pure["engine_process"] = {"runtimes"}
    pure["jsonl"] = {"errors"}
    pure["process"] = {"engine_process"}
    pure["base"] = {"errors", "events", "fan_out", "ranking", "request", "types"}
    pure["client/retry"] = {"errors"}
    pure["client/cache"] = {"types"}
    pure["client/encode"] = {"errors", "request", "types"}
    pure["client/calibrated"] = {"calibration", "events", "ranking"}
    pure["client/split"] = {"client", "errors", "fan_out", "ranking", "request", "types"}
    pure["client/batching"] = {"client", "errors", "types"}
    pure["client/decode"] = {"errors"}
    pure["adapters/metadata"] = {"types"}
    pure["wire/requests"] = {"errors", "options", "request", "types"}
    pure["wire/responses"] = {"events", "ranking", "types"}
    pure["serving/admission"] = {"errors", "pipeline", "request", "types"}
    pure["serving/native/requests"] = {"errors", "request", "wire"}
    for room, below in pure.items():
        ours = {
            room_of(name)
            for name in imports_of(ast.parse((PACKAGE / f"{room}.py").read_text()))
            if name.startswith("whyrank.")
        }
        assert ours <= below, room


# From the bottom up: a module may import, when it is itself imported, only what is in a layer below or in its own room. What a
# function imports when it is called (the engine, the client, a command's heavy half) is not bound by this.
LAYERS = (
    "errors fan_out loop_thread engine_process torchvision_ops",
    "types options jsonl process checkpoint_files engine_install",
    "config request packing grounding quantization",
    "ranking prompting quantize",
    "events calibration shipped",
    "base wire",
    "__init__ connect batch canary",
    "checkpoints client",
    "dtypes adapters",
    "runtimes",
    "pipeline label_choice",
    "reranker",
    "start",
    "verifier doctor",
    "evaluation serving",
    "retrieval cli cluster",
    "__main__",
)


def test_every_room_imports_only_from_the_layers_below_it() -> None:
    layer_of = {room: number for number, rooms in enumerate(LAYERS) for room in rooms.split()}
    imports = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        body = ast.parse(path.read_text()).body
        top = ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        imports[room] |= {name.split(".")[1] for name in imports_of(top) if name.startswith("whyrank.")} - {room}
    assert imports.keys() == layer_of.keys(), "a room without a layer, or a layer without its room"
    upward = {(room, other) for room in imports for other in imports[room] if layer_of[other] >= layer_of[room]}
    assert upward == set()


def test_no_function_is_longer_than_a_screen() -> None:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    nodes = ((path, node) for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    lengths = {
        (path.name, node.name): node.end_lineno - node.lineno + 1 for path, node in nodes if isinstance(node, functions)
    }  # type: ignore[operator]
    assert {name: lines for name, lines in lengths.items() if lines > 45} == {}


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert whyrank.__version__ == version == newest.group(1)


def test_the_wheel_carries_the_prompts(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if name.startswith("whyrank/prompts/")} == {
        f"whyrank/prompts/{path.name}" for path in (ROOT / "prompts").iterdir()
    }
    assert "whyrank/py.typed" in names
    evaluation = PACKAGE / "evaluation"
    shipped = [*evaluation.glob("presets/*.toml"), *evaluation.glob("house/**/*.*"), *evaluation.glob("templates/*.*")]
    shipped += [PACKAGE / "torchvision_ops.py", *PACKAGE.glob("locks/*.txt"), *PACKAGE.glob("models/*/*.*")]
    assert {f"whyrank/{path.relative_to(PACKAGE).as_posix()}" for path in shipped} <= set(names)
    assert {name.split("/")[0] for name in names} == {"whyrank", f"whyrank-{whyrank.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    unpacked = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(unpacked)
    code = f"import sys; sys.path.insert(0, {str(unpacked)!r}); from whyrank.prompting.formats import *; "
    code += "print(*builtin_formats())"
    assert "prism" in run(code).split()


def test_the_readmes_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 10

"""ONNX Runtime as one of the systems that the benchmarks compare: a Qwen3 checkpoint written as ONNX, and its margins.

The graph has the operations to which ONNX Runtime's own tools fuse an export of such a model (GroupQueryAttention with rotary
positions, SkipSimplifiedLayerNormalization), as in the exports that are published of Qwen3-Reranker.

    pip install onnx onnxruntime
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

from bench_common import Work, label_ids
from bench_systems import Score
from whyrank.checkpoints import Plan

__all__ = ["onnx_system", "quantize_onnx", "write_onnx"]

_MICROSOFT = "com.microsoft"
# Of the table of rotary positions: more than a prompt of these benchmarks has.
_POSITIONS = 8192
# Of a weight in its file: a page, so that it can be mapped.
_ALIGNMENT = 4096


class _Graph:
    """Nodes and weights of an ONNX graph, in the order in which they are added. Every value is named after its node. Weights go
    to a file at once, since models in memory are copied several times."""

    def __init__(self, data: BinaryIO, data_name: str) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.values: list[Any] = []
        self._data, self._data_name = data, data_name

    def constant(self, name: str, *numbers: int) -> str:
        from onnx import TensorProto, helper

        self.weights.append(helper.make_tensor(name, TensorProto.INT64, [len(numbers)], numbers))
        return name

    def weight(self, name: str, array: Any) -> str:
        from onnx import TensorProto

        self._data.write(bytes(-self._data.tell() % _ALIGNMENT))
        offset = self._data.tell()
        length = self._data.write(array.astype("<f4").tobytes())
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": self._data_name, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        self.weights.append(tensor)
        return name

    def add(self, kind: str, *inputs: str, domain: str = "", outputs: tuple[int, ...] = (0,), **attributes: Any) -> Any:
        """`outputs`: which of the node's outputs are wanted. Returns their names, or the name if it is only one."""
        from onnx import TensorProto, helper

        name = f"{kind}_{len(self.nodes)}"
        wanted = [f"{name}.{place}" if place in outputs else "" for place in range(max(outputs) + 1)]
        self.nodes.append(helper.make_node(kind, [*inputs], wanted, name, domain=domain, **attributes))
        names = [output for output in wanted if output]
        # The tool that quantises wants to know the type of each.
        self.values += [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in names]
        return names[0] if len(names) == 1 else names

    def multiply(self, value: str, name: str, matrix: Any) -> str:
        """`matrix`: as the checkpoint has it, a row for each output."""
        return str(self.add("MatMul", value, self.weight(name, matrix.T)))


class _Decoder:
    """Builds the graph of a Qwen3 decoder from the config and the open weights of its checkpoint."""

    def __init__(self, config: dict[str, Any], stored: Any, graph: _Graph) -> None:
        self._config, self._stored, self._graph = config, stored, graph
        self._epsilon: dict[str, Any] = {"epsilon": config["rms_norm_eps"]}

    def build(self) -> None:
        graph, layers, embeddings = self._graph, self._config["num_hidden_layers"], "model.embed_tokens.weight"
        self._constants()
        stream = graph.add("Gather", graph.weight("embeddings", self._array(embeddings)), "input_ids")
        normed = self._norm(stream, "model.layers.0.input_layernorm.weight")
        for layer in range(layers):
            at = f"model.layers.{layer}"
            mixed = self._attention(normed, f"{at}.self_attn")
            normed, stream = self._add_and_norm(stream, mixed, f"{at}.post_attention_layernorm.weight")
            mixed = self._mlp(normed, f"{at}.mlp")
            if layer + 1 < layers:
                normed, stream = self._add_and_norm(stream, mixed, f"model.layers.{layer + 1}.input_layernorm.weight")
        last = graph.add("Gather", graph.add("Add", stream, mixed), graph.constant("last", -1), axis=1)
        untied = "lm_head.weight" in self._stored.keys()  # noqa: SIM118
        head = self._array("lm_head.weight" if untied else embeddings)
        graph.multiply(self._norm(last, "model.norm.weight"), "lm_head.weight", head)
        graph.nodes[-1].output[0] = "logits"

    def _array(self, name: str) -> Any:
        return self._stored.get_tensor(name).float().numpy()

    def _constants(self) -> None:
        import numpy as np

        config, graph = self._config, self._graph
        size = config["head_dim"]
        rotary = config.get("rope_parameters") or config
        frequencies = rotary["rope_theta"] ** (-np.arange(0, size, 2) / size)
        angles = np.outer(np.arange(_POSITIONS), frequencies)
        graph.weight("cos", np.cos(angles))
        graph.weight("sin", np.sin(angles))
        for name in ("num_attention_heads", "num_key_value_heads"):
            # 0: as before. From all heads in one row to a row for each, and back.
            graph.constant(f"{name}.apart", 0, 0, config[name], size)
            graph.constant(f"{name}.together", 0, 0, config[name] * size)

    def _norm(self, value: str, weight: str) -> str:
        scale = self._graph.weight(weight, self._array(weight))
        return str(self._graph.add("SimplifiedLayerNormalization", value, scale, axis=-1, **self._epsilon))

    def _add_and_norm(self, stream: str, mixed: str, weight: str) -> tuple[str, str]:
        """The sum's norm, and the sum."""
        scale = self._graph.weight(weight, self._array(weight))
        normed, total = self._graph.add(
            "SkipSimplifiedLayerNormalization",
            *(stream, mixed, scale),
            domain=_MICROSOFT,
            outputs=(0, 3),
            **self._epsilon,
        )
        return normed, total

    def _heads(self, normed: str, at: str, part: str, heads: str) -> str:
        """Queries or keys: projected, and normed head by head."""
        name = f"{at}.{part}_proj.weight"
        flat = self._graph.multiply(normed, name, self._array(name))
        apart = self._norm(self._graph.add("Reshape", flat, f"{heads}.apart"), f"{at}.{part}_norm.weight")
        return str(self._graph.add("Reshape", apart, f"{heads}.together"))

    def _attention(self, normed: str, at: str) -> str:
        graph, config = self._graph, self._config
        queries = self._heads(normed, at, "q", "num_attention_heads")
        keys = self._heads(normed, at, "k", "num_key_value_heads")
        values = graph.multiply(normed, f"{at}.v_proj.weight", self._array(f"{at}.v_proj.weight"))
        mixed, _, _ = graph.add(
            "GroupQueryAttention",
            *(queries, keys, values, "", "", "last_positions", "length", "cos", "sin"),
            domain=_MICROSOFT,
            outputs=(0, 1, 2),
            num_heads=config["num_attention_heads"],
            kv_num_heads=config["num_key_value_heads"],
            do_rotary=1,
        )
        return graph.multiply(mixed, f"{at}.o_proj.weight", self._array(f"{at}.o_proj.weight"))

    def _mlp(self, normed: str, at: str) -> str:
        graph = self._graph
        gate, up = (
            graph.multiply(normed, name, self._array(name))
            for name in (f"{at}.gate_proj.weight", f"{at}.up_proj.weight")
        )
        gated = graph.add("Mul", graph.add("Mul", gate, graph.add("Sigmoid", gate)), up)
        return graph.multiply(gated, f"{at}.down_proj.weight", self._array(f"{at}.down_proj.weight"))


def write_onnx(model: Path, out: Path) -> None:
    """In float32, with the weights in a file beside it. Inputs: prompts as ids, all of one length. Output: the logits after
    the last id."""
    import onnx
    from onnx import TensorProto, helper
    from safetensors import safe_open

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    out.parent.mkdir(parents=True, exist_ok=True)
    data = out.with_name(f"{out.name}.data")
    with data.open("wb") as file, safe_open(model / "model.safetensors", framework="pt") as stored:
        graph = _Graph(file, data.name)
        _Decoder(config, stored, graph).build()
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["prompts", "tokens"]),
        helper.make_tensor_value_info("last_positions", TensorProto.INT32, ["prompts"]),
        helper.make_tensor_value_info("length", TensorProto.INT32, []),
    ]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["prompts", 1, config["vocab_size"]])
    made = helper.make_graph(graph.nodes, "qwen3", inputs, [logits], graph.weights, value_info=graph.values[:-1])
    versions = [helper.make_opsetid("", 17), helper.make_opsetid(_MICROSOFT, 1)]
    onnx.save_model(helper.make_model(made, opset_imports=versions, ir_version=10), out)


def quantize_onnx(source: Path, out: Path) -> None:
    """All matrices in int8, a scale for each output; activations are quantised as they come."""
    from onnxruntime.quantization import quantize_dynamic

    out.parent.mkdir(parents=True, exist_ok=True)
    quantize_dynamic(source, out, op_types_to_quantize=["MatMul"], per_channel=True, use_external_data_format=True)


def onnx_system(path: Path, plan: Plan) -> Score:
    """One prompt at a time: several would have to be padded to one length, and one is enough to keep all cores busy."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    # Its threads shall not spin while others are measured.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    yes, no = label_ids(plan)

    def read(ids: list[int]) -> float:
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "last_positions": np.array([len(ids) - 1], np.int32),
            "length": np.array(len(ids), np.int32),
        }
        logits = session.run(["logits"], inputs)[0][0, 0]
        return float(logits[yes] - logits[no])

    def score(work: Work) -> list[float]:
        return [read(ids) for ids in work.ids]

    return score

"""The embedded model in plain PyTorch for training, its losses, Muon, and conversion to a Qwen3 checkpoint and back.

It computes the same numbers as transformers' Qwen3ForCausalLM, but the corresponding matrices of all layers are one parameter:
that trains about twice as fast on two cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo_tokens import Encoded

__all__ = ["Batch", "Muon", "Net", "Shape", "collate", "counts", "losses", "read_checkpoint", "write_checkpoint"]


@dataclass(frozen=True, slots=True)
class Shape:
    vocabulary: int
    hidden: int = 256
    layers: int = 5
    heads: int = 4
    head: int = 64
    inner: int = 640
    theta: float = 10000.0

    @classmethod
    def of(cls, checkpoint: Path) -> Shape:
        config = json.loads((checkpoint / "config.json").read_text())
        return cls(
            vocabulary=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            head=config["head_dim"],
            inner=config["intermediate_size"],
            theta=config["rope_parameters"]["rope_theta"],
        )


class Net(nn.Module):  # type: ignore[misc]
    """Qwen3 with tied embeddings, and linear probes on its layers that only the auxiliary losses use."""

    def __init__(self, shape: Shape, vectors: Tensor | None = None) -> None:
        """`vectors`: unit vectors for the meanings of the tokens; a row of zeros for tokens whose meaning is not known."""
        super().__init__()
        self.shape = shape
        self.compute = torch.float32
        """The dtype of matrix products. bfloat16 is faster if the processor supports it."""
        n, d, a, i = shape.layers, shape.hidden, shape.heads * shape.head, shape.inner

        def matrix(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*size) * size[-1] ** -0.5)

        # Layers start by adding nothing, so at first all of them read a token's own embedding; it is large compared with what
        # they will add, and the last norm compensates for that in the logits.
        self.embedding = nn.Parameter(torch.randn(shape.vocabulary, d) * 0.5)
        if vectors is not None:
            with torch.no_grad():
                _give_meaning(self.embedding, vectors)
        self.last_norm = nn.Parameter(torch.full((d,), 0.125))
        self.qkv = matrix(n, 3, a, d)
        self.out = nn.Parameter(torch.zeros(n, d, a))
        self.gate_up = matrix(n, 2, i, d)
        self.down = nn.Parameter(torch.zeros(n, d, i))
        self.norms = nn.Parameter(torch.ones(n, 2, d))
        self.head_norms = nn.Parameter(torch.ones(n, 2, shape.head))
        with torch.no_grad():
            _wire(self)
        self.layer = _layer
        self.probe_shared = nn.Linear(d, 1)
        self.probe_parts = nn.Linear(d, 2)
        self.probe_answers = nn.Linear(d, 1)
        self.probe_label = nn.Linear(d, 1)
        self.probe_near = nn.Linear(d, 1)
        self.probe_near_all = nn.Linear(d, 1)

    def matrices(self) -> list[nn.Parameter]:
        return [self.qkv, self.out, self.gate_up, self.down]

    def forward(self, ids: Tensor) -> list[Tensor]:
        """The hidden states after each layer, the last one normalised."""
        x = F.embedding(ids, self.embedding)
        turn = self._turns(ids.shape[1])
        matrices = (matrix.to(self.compute) for matrix in self.matrices())
        stacks = (*matrices, self.norms, self.head_norms)
        states = []
        # unbind rather than indexing layer by layer: each index would have a gradient as large as the whole stack.
        for weights in zip(*(stack.unbind(0) for stack in stacks), strict=True):
            x = self.layer(x, turn, *weights)
            states.append(x)
        states[-1] = F.rms_norm(x, x.shape[-1:], self.last_norm, 1e-6)
        return states

    def _turns(self, length: int) -> tuple[Tensor, Tensor]:
        half = self.shape.head // 2
        speeds = self.shape.theta ** -(torch.arange(half, dtype=torch.float32) / half)
        angles = torch.outer(torch.arange(length, dtype=torch.float32), speeds).repeat(1, 2).to(self.embedding.device)
        return angles.cos(), angles.sin()


def _give_meaning(embedding: Tensor, vectors: Tensor) -> None:
    """Tokens of similar meaning start close together; a random part of their own keeps them apart, or copying could not
    work."""
    turned = torch.linalg.qr(torch.randn(embedding.shape[1], vectors.shape[1]))[0]
    length = embedding.norm(dim=-1, keepdim=True)
    mixed = 0.8 * vectors @ turned.T + 0.6 * F.normalize(embedding, dim=-1)
    known = vectors.norm(dim=-1) > 0
    embedding[known] = (F.normalize(mixed, dim=-1) * length)[known]


def _wire(net: Net) -> None:
    """Starts with the three things on which all else builds, and which take hundreds of steps to form from a random start:

    - heads that attend to tokens like their own: the query's words in the document,
    - one head in the first layer that attends to the previous token and stores which one it is,
    - heads after it that look for what followed their token elsewhere: this is how a model copies.
    """
    shape = net.shape
    half, size, fast = shape.heads // 2, shape.head, shape.head // 4
    heads = net.qkv.view(shape.layers, 3, shape.heads, size, shape.hidden)
    # Fast rotations distinguish positions, slow ones compare contents. The two parts of a rotated pair are size / 2 apart.
    slow = torch.full((size, 1), 0.1)
    slow[fast : size // 2] = slow[size // 2 + fast :] = 1.0
    heads[:, 0, :half] *= slow
    heads[:, 1, :half] = heads[:, 0, :half]
    # One direction that all embeddings share lets a head attend by position alone.
    always = F.normalize(torch.randn(shape.hidden), dim=0)
    heads[:, :2, :half] -= (heads[:, :2, :half] @ always)[..., None] * always
    net.embedding += 4.0 * always - (net.embedding @ always)[:, None] * always
    before, quickest = heads[0, :, half], 4
    speeds = shape.theta ** -(torch.arange(quickest) / (size // 2))
    before[:2] = 0
    before[0, :quickest] = before[1, :quickest] = always
    before[1, :quickest] *= speeds.cos()[:, None]
    before[1, size // 2 : size // 2 + quickest] = speeds.sin()[:, None] * always
    read, noted = (torch.linalg.qr(torch.randn(shape.hidden, size))[0] for _ in range(2))
    before[2] = read.T - (read.T @ always)[:, None] * always
    net.out[0, :, half * size : (half + 1) * size] = 0.5 * noted
    heads[1:4, 0, half] = slow * before[2]
    heads[1:4, 1, half] = slow * noted.T


def _layer(
    x: Tensor,
    turn: tuple[Tensor, Tensor],
    qkv: Tensor,
    out: Tensor,
    gate_up: Tensor,
    down: Tensor,
    norms: Tensor,
    head_norms: Tensor,
) -> Tensor:
    """Qwen3's attention and feed-forward, each with normalised input."""
    batch, length, hidden = x.shape
    size, compute = head_norms.shape[-1], qkv.dtype
    h = F.rms_norm(x, (hidden,), norms[0], 1e-6).to(compute)
    q, k, v = F.linear(h, qkv.flatten(0, 1)).view(batch, length, 3, -1, size).permute(2, 0, 3, 1, 4)
    q = _turned(F.rms_norm(q.float(), (size,), head_norms[0], 1e-6), turn).to(compute)
    k = _turned(F.rms_norm(k.float(), (size,), head_norms[1], 1e-6), turn).to(compute)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + F.linear(mixed, out)
    h = F.rms_norm(x, (hidden,), norms[1], 1e-6).to(compute)
    gate, up = F.linear(h, gate_up.flatten(0, 1)).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, down)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * turn[0] + torch.cat((-right, left), -1) * turn[1]


# Losses.


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids, and positions in them (flattened) with the targets there."""

    ids: Tensor
    words: tuple[Tensor, Tensor]
    """Where the next token is to be predicted, and which one it is."""
    labels: tuple[Tensor, Tensor]
    shared: tuple[Tensor, Tensor]
    ends: tuple[Tensor, Tensor]
    near: tuple[Tensor, Tensor]
    """Where the sentences end that the teacher has rated, and the ratings."""
    near_all: tuple[Tensor, Tensor]
    """The same for whole documents."""
    closes: Tensor
    """Where the document has just ended, for the label's auxiliary loss."""
    samples: Sequence[Encoded]

    def to(self, device: str) -> Batch:
        if device == "cpu":
            return self

        def moved(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return pair[0].to(device), pair[1].to(device)

        return Batch(
            self.ids.to(device),
            moved(self.words),
            moved(self.labels),
            moved(self.shared),
            moved(self.ends),
            moved(self.near),
            moved(self.near_all),
            self.closes.to(device),
            self.samples,
        )


def collate(samples: Sequence[Encoded]) -> Batch:
    # Answers come last and attention only looks back, so the padding after them does not matter.
    width = max(len(sample.ids) for sample in samples)
    ids = torch.zeros(len(samples), width, dtype=torch.long)
    words, shared, ends, near, near_all = [], [], [], [], []
    for row, sample in enumerate(samples):
        at = row * width
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        words += [(at + i - 1, sample.ids[i]) for i in range(sample.prompt, len(sample.ids))]
        shared += [(at + i, value) for i, value in zip(sample.document, sample.shared, strict=True)]
        ends += [(at + i, *flags) for i, *flags in sample.ends]
        places = [at + i for i, *_ in sample.ends]
        near += [(i, value) for i, value in zip(places, sample.nearness, strict=False) if not isnan(value)]
        if not isnan(sample.nearness[-1]):
            near_all.append((at + sample.document.stop, sample.nearness[-1]))
    labels = [(row * width + sample.prompt - 1, sample.target) for row, sample in enumerate(samples)]
    closes = torch.tensor([row * width + sample.document.stop for row, sample in enumerate(samples)])
    return Batch(
        ids,
        _split(words),
        _split(labels),
        _split(shared),
        _split(ends),
        _split(near),
        _split(near_all),
        closes,
        samples,
    )


def _split(rows: Sequence[tuple[Any, ...]]) -> tuple[Tensor, Tensor]:
    """Positions, and the targets at them."""
    places = torch.tensor([row[0] for row in rows], dtype=torch.long)
    return places, torch.tensor([row[1:] for row in rows]).squeeze(1) if rows else places


def losses(net: Net, batch: Batch, labels: tuple[int, int]) -> dict[str, Tensor]:
    """Sums, not means: a step consists of several batches."""
    states = [state.flatten(0, 1) for state in net(batch.ids)]
    last = states[-1]
    logits = F.linear(last[batch.words[0]].to(net.compute), net.embedding.to(net.compute)).float()
    two = F.linear(last[batch.labels[0]], net.embedding[list(labels)])

    def judged(probe: nn.Module, state: Tensor, wanted: Tensor) -> Tensor:
        state = F.rms_norm(state, state.shape[-1:])
        return F.binary_cross_entropy_with_logits(probe(state).squeeze(-1), wanted.float(), reduction="sum")

    def guessed(probe: nn.Module, state: Tensor, wanted: Tensor) -> Tensor:
        state = F.rms_norm(state, state.shape[-1:])
        return F.mse_loss(probe(state).squeeze(-1), 4 * (wanted - 0.3), reduction="sum")

    # Each auxiliary loss sits where its work should be done: first words are found, then sentences judged, then the document.
    return {
        "words": F.cross_entropy(logits, batch.words[1], reduction="sum"),
        "label": F.binary_cross_entropy_with_logits(two[:, 0] - two[:, 1], batch.labels[1], reduction="sum"),
        "shared": judged(net.probe_shared, states[1][batch.shared[0]], batch.shared[1]),
        "parts": judged(net.probe_parts, states[2][batch.ends[0]], batch.ends[1][:, :2]),
        "near": guessed(net.probe_near, states[2][batch.near[0]], batch.near[1]),
        "answers": judged(net.probe_answers, states[3][batch.ends[0]], batch.ends[1][:, 2]),
        "near_all": guessed(net.probe_near_all, states[-2][batch.near_all[0]], batch.near_all[1]),
        "close": judged(net.probe_label, states[-2][batch.closes], batch.labels[1]),
    }


def counts(batches: Iterable[Batch]) -> dict[str, int]:
    """What the sums of `losses` are divided by."""
    batches = list(batches)
    samples = sum(len(batch.samples) for batch in batches)

    def places(part: str) -> int:
        return max(1, sum(len(getattr(batch, part)[0]) for batch in batches))

    sizes = {name: places(name) for name in ("words", "shared", "near", "near_all")}
    return sizes | {"label": samples, "close": samples, "answers": places("ends"), "parts": 2 * places("ends")}


class Muon(torch.optim.Optimizer):  # type: ignore[misc]
    """Momentum whose every update is made nearly orthogonal, so that all directions of a matrix learn at the same pace.

    On matrices it needs about half as many steps as AdamW. The leading dimensions of a parameter index separate matrices."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    def step(self, closure: Any = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    self._move(parameter, **{name: group[name] for name in ("lr", "momentum", "decay")})

    def _move(self, parameter: nn.Parameter, lr: float, momentum: float, decay: float) -> None:
        held = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        held.lerp_(parameter.grad, 1 - momentum)
        update = _orthogonal(parameter.grad.lerp(held, momentum))
        rows, columns = parameter.shape[-2:]
        parameter.mul_(1 - lr * decay)
        parameter.add_(update, alpha=-lr * max(1.0, rows / columns) ** 0.5)


def _orthogonal(matrices: Tensor) -> Tensor:
    """The Newton-Schulz iteration, with the coefficients of Jordan and others that push all singular values towards 1. They
    only end up near 1, so bfloat16 is precise enough."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.flatten(0, -3).to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype).view_as(matrices)


# Checkpoints that other programs read.


def write_checkpoint(net: Net, tokenizer: Any, folder: Path) -> None:
    """Writes a plain Qwen3ForCausalLM. Weights are stored in half the bytes and computed with in fp32."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    shape = net.shape
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta},
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    missing, unknown = model.load_state_dict(_named(net), strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)
    model.tie_weights()
    model.to(torch.float16).save_pretrained(folder)
    _compute_in_float32(folder)
    tokenizer.save_pretrained(folder)


def read_checkpoint(net: Net, folder: Path, share: float = 1.0) -> None:
    """Reads what `write_checkpoint` wrote into a net of the same shape. With a smaller `share`, the net becomes an average of
    that share of what is read and the rest of what it was."""
    from safetensors.torch import load_file

    held = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, tensor in _named(net).items():
            tensor.lerp_(held[name].to(tensor), share)


def _named(net: Net) -> dict[str, Tensor]:
    """The weights under transformers' names, as views."""
    named = {"model.embed_tokens.weight": net.embedding, "model.norm.weight": net.last_norm}
    for layer in range(net.shape.layers):
        at = f"model.layers.{layer}."
        for name, matrix in zip(("q_proj", "k_proj", "v_proj"), net.qkv[layer], strict=True):
            named[f"{at}self_attn.{name}.weight"] = matrix
        named[f"{at}self_attn.o_proj.weight"] = net.out[layer]
        named[f"{at}self_attn.q_norm.weight"], named[f"{at}self_attn.k_norm.weight"] = net.head_norms[layer]
        named[f"{at}mlp.gate_proj.weight"], named[f"{at}mlp.up_proj.weight"] = net.gate_up[layer]
        named[f"{at}mlp.down_proj.weight"] = net.down[layer]
        named[f"{at}input_layernorm.weight"], named[f"{at}post_attention_layernorm.weight"] = net.norms[layer]
    return {name: tensor.detach() for name, tensor in named.items()}


def _compute_in_float32(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"float16"', '"float32"'))

"""The same model with the same adapters trained at one place, by flax and optax alone.

What split training is compared with: no line of jsplit is in it. Weights of a GGUF file are read
tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx

from experiments.common import llama
from experiments.common.clinic import OPTIMIZER, Task, loss

Step = Callable[[], float]


def read(model: llama.Llama, file: Path) -> None:
    """Put the weights of a GGUF file into an adapted model."""
    import gguf

    dense = {
        "attn_q": ("attention", "q", "base_module"),
        "attn_k": ("attention", "k"),
        "attn_v": ("attention", "v", "base_module"),
        "attn_output": ("attention", "out"),
        "ffn_gate": ("gated", "gate"),
        "ffn_up": ("gated", "up"),
        "ffn_down": ("gated", "down"),
    }
    norms = {"attn_norm": "attention_norm", "ffn_norm": "gated_norm"}
    ends = {"token_embd": ("embed", "embedding"), "output_norm": ("norm", "scale")}
    found: dict[Any, Any] = {}
    for tensor in gguf.GGUFReader(file).tensors:
        value = gguf.dequantize(tensor.data, tensor.tensor_type)
        name = tensor.name.removesuffix(".weight")
        if name in ends:
            path: tuple[Any, ...] = ends[name]
        else:
            _, number, kind = name.split(".")
            if kind in norms:
                inner: tuple[str, ...] = (norms[kind], "scale")
            else:
                inner, value = (*dense[kind], "kernel"), value.T
            path = ("blocks", int(number), *inner)
        at = found
        for part in path[:-1]:
            at = at.setdefault(part, {})
        at[path[-1]] = jax.numpy.asarray(value)
    nnx.update(model, found)


def training(task: Task) -> Step:
    """A function that trains for one step more, and returns the loss before it."""
    model = task.model()
    if task.file is not None:
        read(model, task.file)
    graph, adapters, frozen = nnx.split(model, nnx.LoRAParam, ...)

    @jax.jit
    def step(adapters, memory, frozen, tokens, label):
        def of(adapters):
            logits = nnx.merge(graph, adapters, frozen)(tokens)
            return loss(logits, label).mean()

        value, gradient = jax.value_and_grad(of)(adapters)
        updates, memory = OPTIMIZER.update(gradient, memory, adapters)
        return optax.apply_updates(adapters, updates), memory, value

    now, done = (adapters, OPTIMIZER.init(adapters)), 0

    def go_on() -> float:
        nonlocal now, done
        adapters, memory, value = step(*now, frozen, **task.fields(done))
        now, done = (adapters, memory), done + 1
        return float(value)

    return go_on

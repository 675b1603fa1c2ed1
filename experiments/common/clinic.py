"""A language model between a clinic that has text and servers that have none: parts, text, labels.

The clinic holds the first and the last blocks with the embedding, which is the output layer too:
text and labels stay there. One server holds what is between (a U), or several, one after another.
The model is SmolLM2-135M with adapters, or a twin of random weights whose tokens are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx

import jsplit
from experiments.common import llama, smollm

CLINIC = "clinic"
RANK = 8  # of the adapters
KEPT = "*.lora_*"  # what no file has: the adapters
OPTIMIZER = optax.adam(1e-3)
TWIN = llama.Config(256, layers=6, width=32, hidden=48, heads=4, groups=2)


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes:
        small: the twin in place of the published model.
        batch: rows of a step.
        length: tokens of a row.
    """

    small: bool = False
    batch: int = 4
    length: int = 128

    @property
    def tokens(self) -> int:
        """How many a step reads."""
        return self.batch * self.length

    @cached_property
    def file(self) -> Path | None:
        """The weights; the twin has none."""
        return None if self.small else smollm.file()

    @cached_property
    def _read(self) -> tuple[llama.Config, np.ndarray]:
        text = smollm.english()
        if self.file is None:
            return TWIN, np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        config, tokenizer = smollm.head(self.file)
        return config, np.array(tokenizer.encode(text).ids, np.int32)

    @property
    def config(self) -> llama.Config:
        return self._read[0]

    def fields(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step, from 0 on: each row goes on where the one before ended."""
        rows = self.batch * step + np.arange(self.batch)
        at = rows[:, None] * self.length + np.arange(self.length + 1)
        taken = self._read[1][at % len(self._read[1])]
        return {"tokens": taken[:, :-1], "label": taken[:, 1:]}

    def model(self) -> llama.Llama:
        """The model with adapters: without arrays where a file has them."""
        if self.small:
            model = llama.Llama(self.config, rngs=nnx.Rngs(0))
            # One weight is at both ends: else each token is the most likely after itself.
            scale = jax.random.normal(jax.random.key(2), (self.config.width,))
            model.norm.scale[...] = scale
        else:
            model = llama.shapes_of(self.config)
        return llama.adapted(model, RANK, rngs=nnx.Rngs(1))


def loss(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The mean over the tokens of each row, [batch]."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return each.mean(-1)


def servers(count: int) -> list[str]:
    """Their names, in the order of the model."""
    return ["server"] if count == 1 else [f"server-{i + 1}" for i in range(count)]


def cuts(config: llama.Config, count: int) -> dict[str, str]:
    """Where the model is cut for so many servers.

    The clinic has a sixth of the blocks before them and a sixth after them.
    """
    own = max(config.layers // 6, 1)
    after = np.linspace(own - 1, config.layers - own - 1, count + 1).round().astype(int)
    names = ["up", *(f"middle-{i}" for i in range(1, count)), "down"]
    return {name: f"blocks.{i}" for name, i in zip(names, after, strict=True)}


def owners(count: int) -> dict[str, str]:
    """Whose each part is, by what it computes."""
    between = [f"middle-{i}" for i in range(1, count)]
    found = dict(zip([*between, "down"], servers(count), strict=True))
    return {"up": CLINIC, **found, "output": CLINIC}


def divided(
    task: Task, count: int = 1, model: llama.Llama | None = None
) -> dict[str, jsplit.Segment]:
    """The parts, without the weights of a file; of `model`, if it is there already."""
    shape = jax.ShapeDtypeStruct((task.batch, task.length), "int32")
    return jsplit.split(
        task.model() if model is None else model,
        shape,
        cuts=cuts(task.config, count),
        trainable=nnx.LoRAParam,
    )


def filled(
    task: Task, parts: Mapping[str, jsplit.Segment], parties: Iterable[str], count: int
) -> dict[str, jsplit.Segment]:
    """The parts, of which those of `parties` have their weights from the file."""
    if task.file is None:
        return dict(parts)
    whose, own = owners(count), {*parties}
    mine = {name: part for name, part in parts.items() if whose[name] in own}
    names, others = llama.names_of_gguf(lora=True), len(mine) < len(parts)
    own = jsplit.load(mine, task.file, names=names, keep=KEPT, partial=others)
    return {**parts, **own}


def cached(
    task: Task, parts: Mapping[str, jsplit.Segment]
) -> dict[str, jsplit.Segment]:
    """The parts, each with a cache, so that texts go on token by token."""
    model, config = task.model(), task.config
    ends = [int(at.rpartition(".")[2]) for at in cuts(config, len(parts) - 2).values()]
    ends.append(config.layers - 1)
    found, first = {}, 0
    for (name, part), last in zip(parts.items(), ends, strict=True):
        piece = llama.Piece(model, first, last)
        found[name] = jsplit.with_cache(part, partial(decoding, piece))
        first = last + 1
    return found


def decoding(model: nnx.Module, batch: int, length: int) -> nnx.Module:
    """The model with caches for so many sequences of so many tokens."""
    return nnx.view(model, decode=True, batch_size=batch, max_length=length)


def topology(parts: Mapping[str, jsplit.Segment]) -> jsplit.Topology:
    """Who computes what; tokens, labels and the loss are the clinic's."""
    whose = owners(len(parts) - 2)
    if len(parts) == 3:
        return jsplit.u_shaped(
            *parts.values(), loss=loss, client=CLINIC, server="server"
        )
    nodes: list[jsplit.Node | jsplit.Loss] = []
    reads = "tokens"
    for name, part in parts.items():
        nodes.append(jsplit.Node(name, part, party=whose[name], inputs=[reads]))
        reads = name
    nodes.append(jsplit.Loss("loss", loss, party=CLINIC, inputs=["output", "label"]))
    return jsplit.Topology(nodes=nodes, holds={CLINIC: ["tokens", "label"]})


def together(task: Task, count: int = 1) -> jsplit.Topology:
    """All parties in one process, with their weights."""
    everybody = [CLINIC, *servers(count)]
    return topology(filled(task, divided(task, count), everybody, count))

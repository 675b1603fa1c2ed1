"""The same model saying the same tokens at one place, by Flax alone, with a cache and without.

What split generation is compared with: no line of jsplit is in what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.common import clinic, plain_lora
from experiments.common.clinic import Task

Say = Callable[[np.ndarray, int], np.ndarray]
"""From tokens that come next, [1, any], to so many after them."""


class Whole:
    """The whole model, which goes on token by token.

    Args:
        task: whose model.
        length: the most positions of a text.
    """

    def __init__(self, task: Task, length: int):
        model = task.model()
        if task.file is not None:
            plain_lora.read(model, task.file)
        self.model = model
        view = clinic.decoding(model, 1, length)
        graph, self.empty, self.weights = nnx.split(view, nnx.Cache, ...)

        def step(cache, weights, tokens):
            model = nnx.merge(graph, cache, weights)
            logits = model(tokens)
            return logits[:, -1].argmax(-1), nnx.state(model, nnx.Cache)

        self.step = jax.jit(step, donate_argnums=0)

    @contextmanager
    def begin(self) -> Iterator[Say]:
        """Begin a text."""
        cache = jax.tree.map(jnp.copy, self.empty)

        def say(tokens: np.ndarray, count: int) -> np.ndarray:
            nonlocal cache
            found = []
            for _ in range(count):
                drawn, cache = self.step(cache, self.weights, tokens)
                tokens = np.asarray(drawn)[:, None].astype(np.int32)
                found.append(tokens)
            return np.concatenate(found, 1)

        yield say

    def likeliest(self, tokens: np.ndarray) -> np.ndarray:
        """The most likely token after each place of a text, without any cache."""
        graph, state = nnx.split(self.model)
        run = jax.jit(lambda state, x: nnx.merge(graph, state)(x).argmax(-1))
        return np.asarray(run(state, tokens))

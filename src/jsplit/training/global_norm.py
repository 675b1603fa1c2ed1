"""Optimizers that need a number of all parties: the global norm of gradients, or the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.core.finite import at_least_float32

Share = Callable[[str, jax.Array], jax.Array]
"""`share(name, part) -> sum`: the sum over all parties of what each gives, [] both."""


@dataclass(frozen=True)
class ClipUpdate:
    """The `update` of `clip_by_global_norm`, by which a trainer finds it in an optimizer."""

    max_norm: float
    name: str

    def __call__(
        self,
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        share: Share | None = None,
        **extra: object,
    ) -> tuple[PyTree, PyTree]:
        del params, extra
        leaves = jax.tree.leaves(updates)
        squares = [jnp.sum(jnp.square(jnp.abs(x.astype(_wide(x))))) for x in leaves]
        squared = sum(squares, jnp.zeros((), jnp.result_type(float)))
        if share is not None:
            squared = share(self.name, squared)
        # As Optax computes it: what is within the norm stays as it is, bit for bit.
        norm = jnp.sqrt(squared)
        within = norm < self.max_norm

        def clip(x: jax.Array) -> jax.Array:
            clipped = (x / norm.astype(x.dtype)) * self.max_norm
            return jax.lax.select(within, x, clipped.astype(x.dtype))

        return jax.tree.map(clip, updates), state


def _wide(x: jax.Array) -> jnp.dtype:
    # The squares of many numbers in 16 bits would be infinite soon.
    return at_least_float32(x.dtype)


def clip_by_global_norm(
    max_norm: float, name: str = "global norm"
) -> optax.GradientTransformationExtraArgs:
    """Clip gradients by the norm of those of all parties together.

    `optax.clip_by_global_norm` sees the gradients of one party. Of this one each party
    gives the square of its own norm, one number, and takes a step with the sum; so split
    training equals training the whole model with Optax's. It stands in the optimizer of
    every party that owns parameters. Outside a trainer of jsplit, as in an optimizer of
    the whole model, it is Optax's.

    Args:
        max_norm: the largest norm, above 0.
        name: of what is summed. An optimizer with several of these, as one for each
            group of parameters, gives each a name of its own.

    Returns:
        An optax transformation, to be chained with others.

    Raises:
        ValueError: if `max_norm` is not above 0, or `name` no text.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(
        ...     lambda w, x: w * x, init=lambda key, x: jnp.ones(3), inputs="x", name="h"
        ... )
        >>> server = jsplit.segment(
        ...     lambda w, h: h @ w, init=lambda key, h: jnp.ones(3), inputs="h", name="y"
        ... )
        >>> topology = jsplit.vanilla(client, server, loss=lambda y, label: y)
        >>> optimizer = optax.chain(jsplit.clip_by_global_norm(1.0), optax.sgd(1.0))
        >>> trainer = jsplit.messages(topology, optimizer)
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> state, info = trainer.step(trainer.init(0, batch), batch)
        >>> [(m.sender, m.name, m.bytes) for m in info.messages if m.kind == "scalar"]
        [('client', 'squared norms', 4), ('server', 'squared norms', 4)]
    """
    if isinstance(max_norm, bool) or not isinstance(max_norm, Real):
        raise ValueError(
            f"`max_norm` must be a number above 0, got {type(max_norm).__name__}."
        )
    if not max_norm > 0:
        raise ValueError(f"`max_norm` must be above 0, got {max_norm}.")
    if not isinstance(name, str) or not name:
        raise ValueError(f"`name` must be a text, got {shown(name)}.")
    return optax.GradientTransformationExtraArgs(
        optax.init_empty_state, ClipUpdate(float(max_norm), name)
    )


@dataclass(frozen=True)
class ValueUpdate:
    """The `update` of `with_loss`, by which a trainer finds it in an optimizer."""

    update: Callable[..., tuple[PyTree, PyTree]]

    def __call__(
        self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, PyTree]:
        return self.update(updates, state, params, **extra)


def with_loss(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Give an optimizer the loss of the step, at a party that does not compute it.

    Some optimizers need the loss, as `value`: `optax.contrib.reduce_on_plateau`,
    `optax.polyak_sgd`, `optax.contrib.momo`. A party that computes every loss has it
    anyway. To any other it is sent, one number a step: the sum of all losses, each times
    its weight. So the party learns the loss, which is why it is asked for. `polyak_sgd` and
    `momo` divide it by a norm of gradients too, which is that of the party's own.

    Args:
        optimizer: of one party.

    Returns:
        The optimizer, as a party's in `jsplit.fused` and others.

    Raises:
        ValueError: if it is no optax optimizer.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(
        ...     lambda w, x: w * x, init=lambda key, x: jnp.ones(3), inputs="x", name="h"
        ... )
        >>> server = jsplit.segment(lambda h: h.sum(-1), inputs="h", name="y")
        >>> topology = jsplit.vanilla(client, server, loss=optax.squared_error)
        >>> lower = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
        >>> trainer = jsplit.fused(topology, jsplit.with_loss(lower))
        >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
        >>> state, info = trainer.step(trainer.init(0, batch), batch)
        >>> float(info.loss)
        4.0
    """
    if not all(callable(getattr(optimizer, n, None)) for n in ("init", "update")):
        raise ValueError(
            f"`optimizer` must be an optax optimizer, got {type(optimizer).__name__}."
        )
    able = optax.with_extra_args_support(optimizer)
    return optax.GradientTransformationExtraArgs(able.init, ValueUpdate(able.update))

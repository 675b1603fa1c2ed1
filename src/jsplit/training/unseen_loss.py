"""An optimizer of private parameters reads no loss: that has no noise, and tells of records.

A learning rate that falls where the loss no longer does is a function of the records, and
the parameters show it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree
from jsplit.core.trees import abstract
from jsplit.jaxprs.reads import leaves_in, reads_of, union
from jsplit.training.config import Config
from jsplit.training.gradient_noise import noisy_nodes
from jsplit.training.optimizers import run_optimizer


def refuse_seen_loss(
    config: Config,
    party: str,
    optimizer: optax.GradientTransformation,
    weights: PyTree,
) -> None:
    """Refuse an optimizer that reads the loss beside gradients that have noise.

    Args:
        config: of the training.
        party: whose, which knows the loss.
        optimizer: the party's.
        weights: the floating leaves of its parameters, by node.

    Raises:
        ValueError: if what it gives, or keeps, depends on the loss.
    """
    private = [
        node.name
        for node, noise in noisy_nodes(config.topology)
        # A number is said once; a strength may be set to more.
        if node.party == party and node.name in weights and noise.scale != 0
    ]
    if not private:
        return
    given = abstract(weights)
    value = jax.ShapeDtypeStruct((), jnp.result_type(float))

    def run(value: jax.Array, weights: PyTree, memory: PyTree) -> PyTree:
        found = run_optimizer(optimizer, weights, memory, weights, value=value)
        return found[:2]

    found = reads_of(run, value, given, jax.eval_shape(optimizer.init, given))
    if leaves_in(union(found.results, range(len(found.results))), [value])[0]:
        raise ValueError(
            f"`optimizer` of `{party}` reads the loss, which has no noise, so the "
            f"parameters of `{private[0]}` would not be private; take a schedule by the "
            "number of the step instead."
        )

"""A party's optimizer: what it needs beside gradients and parameters, found before a run.

Optax hands extra arguments through to whoever wants them: `value`, the loss, and
`share`, by which `clip_by_global_norm` asks for a sum over all parties.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr

from jsplit.core.base import PyTree
from jsplit.core.checks import first_line, warn_user
from jsplit.core.typed_jax import is_traced
from jsplit.jaxprs.flat import flatten
from jsplit.jaxprs.slices import backward_slice
from jsplit.training.leaf_by_leaf import warn_of_mixed_leaves
from jsplit.training.optimizer_parts import clips_of, parts_of
from jsplit.training.whole_paths import (
    has_pieces,
    refuse_several,
    with_pieces,
    without_pieces,
)

_PER_EXAMPLE = (
    "it needs the gradient of each example, and a step has that of their mean"
)
_UNFIT = {
    "lookahead": "it keeps two sets of parameters, and a party has one; wrap the "
    "training of the whole model instead",
    "differentially_private_aggregate": _PER_EXAMPLE,
}
"""By the function of Optax that makes them, optimizers that no party can have, and why."""
_OF_ARRAYS = frozenset(
    "adaptive_grad_clip clip_by_block_rms scale_by_factored_rms scale_by_novograd "
    "scale_by_param_block_norm scale_by_param_block_rms scale_by_trust_ratio "
    "scale_by_muon scale_by_sm3".split()
)
"""Functions of Optax that make what looks at each array as one."""


def warn_of_own_norms(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> None:
    """Warn of `optax.clip_by_global_norm` where the norm is of one party among several."""
    for party, optimizer in optimizers.items():
        if len(optimizers) > 1 and "clip_by_global_norm" in _made_by_optax(optimizer):
            warn_user(
                f"`optimizer` of `{party}` has optax.clip_by_global_norm, which sees the "
                "gradients of that party alone; jsplit.clip_by_global_norm clips by the "
                "norm of all, as training the whole model does."
            )


def _warn_of_norms_of_layers(
    party: str, optimizer: optax.GradientTransformation
) -> None:
    """Warn of what looks at an array as one, where a party has some layers of a stack."""
    for made in sorted({*_made_by_optax(optimizer)} & _OF_ARRAYS):
        warn_user(
            f"`optimizer` of `{party}` has optax's {made}, which takes a norm or a mean "
            "of each array, and of a stack of layers the party has some: it sees these "
            "alone, and training the whole model all of them, so the two are not equal."
        )


def _made_by_optax(optimizer: optax.GradientTransformation) -> list[str]:
    """The names of the functions of Optax that have made what an optimizer consists of."""
    return [
        getattr(x, "__qualname__", "").partition(".<locals>")[0]
        for x in parts_of(optimizer)
        if str(getattr(x, "__module__", "")).startswith("optax.")
    ]


def check_fit(party: str, optimizer: optax.GradientTransformation) -> None:
    """Refuse an optimizer that cannot be that of one party.

    Raises:
        ValueError: naming it and why.
    """
    for made in _made_by_optax(optimizer):
        if made in _UNFIT:
            raise ValueError(
                f"`optimizer` of `{party}` cannot be optax's {made}: {_UNFIT[made]}."
            )


def run_optimizer(
    optimizer: optax.GradientTransformation,
    gradient: PyTree,
    memory: PyTree,
    weights: PyTree,
    *,
    value: jax.Array | None = None,
    sums: Mapping[str, jax.Array] | None = None,
) -> tuple[PyTree, PyTree, dict[str, jax.Array]]:
    """Run an optimizer, with what it needs of others.

    Args:
        optimizer: of a party.
        gradient: of its parameters.
        memory: the optimizer's state.
        weights: the parameters.
        value: the loss of the step, if it is known.
        sums: by name, sums over all parties of what they share; `None`: these are not
            known yet, and a party's own part stands in their place.

    Returns:
        The updates, the next state, and by name the party's own parts.
    """
    like = gradient
    gradient, weights = without_pieces(gradient), without_pieces(weights)
    parts: dict[str, jax.Array] = {}

    def share(name: str, part: jax.Array) -> jax.Array:
        parts[name] = part
        # A name that was not found before is refused by `first_memory_of`.
        return part if sums is None else sums.get(name, part)

    extra: dict[str, object] = {"share": share}
    if value is not None:
        extra["value"] = value
    able = optax.with_extra_args_support(optimizer)
    while True:
        try:
            updates, memory = able.update(gradient, memory, weights, **extra)
            return with_pieces(updates, like), memory, parts
        except TypeError as error:
            # Some, as `optax.contrib.sam`, refuse what they do not know; whether one has
            # a clip within it is not always known before it runs.
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if unknown is None or unknown[1] not in extra or clips_of(optimizer):
                raise
            del extra[unknown[1]]


def first_memory_of(
    party: str,
    optimizer: optax.GradientTransformation,
    weights: PyTree,
    names: Sequence[str],
    *,
    has_loss: bool,
    of_several: bool,
) -> PyTree:
    """The first state of a party's optimizer, tried on shapes.

    Args:
        party: whose.
        optimizer: its optimizer.
        weights: the floating leaves of its parameters, by node.
        names: of the norms that all share.
        has_loss: whether the loss of the step is known there.
        of_several: whether other parties have optimizers too.

    Returns:
        The state, of the dtypes that it has after a step, so that no
        step needs another trace.

    Raises:
        ValueError: if the optimizer does not run there, saying why, or the weights are
            several parts of a stack at one node.
    """
    if has_pieces(weights):
        refuse_several(party, weights)
        _warn_of_norms_of_layers(party, optimizer)
    value = jnp.zeros((), jnp.result_type(float)) if has_loss else None

    # All are arguments: of what is closed over nothing would be traced.
    def tried(weights: PyTree, memory: PyTree, sums: Mapping[str, jax.Array]) -> PyTree:
        return run_optimizer(
            optimizer, weights, memory, weights, value=value, sums=sums
        )

    # Those that it shares, whether or not its parts are right.
    sums = {name: jnp.zeros((), jnp.result_type(float)) for name in names}
    made = jax.make_jaxpr(tried, return_shape=True)
    try:
        memory = optimizer.init(without_pieces(weights))
        closed, (_, after, parts) = made(weights, memory, sums)
    except Exception as error:
        raise ValueError(_why(party, error, has_loss)) from error
    if {*parts} != {*names}:
        raise ValueError(
            f"`optimizer` of `{party}`: clip_by_global_norm stands where extra arguments "
            "of its update do not reach it, or is made only there, as within "
            "optax.inject_hyperparams; chain it with the optimizer by optax.chain."
        )
    if names:
        _check_parts(party, cast(ClosedJaxpr, closed), len(names))
    # Of its norm it is told where it is given to a trainer.
    named = _made_by_optax(optimizer)
    if of_several and "clip_by_global_norm" not in named:

        def again(weights: PyTree) -> tuple[ClosedJaxpr, PyTree]:
            memory = jax.eval_shape(optimizer.init, without_pieces(weights))
            return cast(ClosedJaxpr, made(weights, memory, sums)[0]), memory

        made_of = cast(ClosedJaxpr, closed)
        is_flat = "flatten" in named
        warn_of_mixed_leaves(party, made_of, weights, memory, again, is_flat=is_flat)
    return jax.tree.map(lambda x, new: jnp.asarray(x, new.dtype), memory, after)


def _check_parts(party: str, closed: ClosedJaxpr, norms: int) -> None:
    """Refuse parts that cannot be known before the exchange.

    Args:
        party: whose.
        closed: of the update; its last inputs are the sums, its last results the parts.
        norms: how many there are.
    """
    flat = flatten(closed)
    parts = flat.outvars[-norms:]
    read = backward_slice(flat, parts).reads
    # What is made in a branch is computed by nothing outside it: to JAX it is a constant.
    if any(is_traced(flat.consts[x]) for x in parts if x in flat.consts):
        raise ValueError(
            f"`optimizer` of `{party}`: clip_by_global_norm stands within an optimizer "
            "that runs it now and then, as optax.apply_if_finite does; chain it before "
            "that."
        )
    if read & {*flat.invars[-norms:]}:
        raise ValueError(
            f"`optimizer` of `{party}` has clip_by_global_norm twice in sequence: the "
            "second norm is known after the first is clipped, and a step exchanges all at "
            "once. One alone is enough: the smaller."
        )


def _why(party: str, error: Exception, has_loss: bool) -> str:
    """Why an optimizer does not run on a party's parameters, and what to do."""
    lacking = re.findall(r"missing .*argument.*", str(error))
    names = re.findall(r"'(\w+)'", lacking[0]) if lacking else []
    beyond = [n for n in names if n != "value"]
    if beyond:
        return (
            f"`optimizer` of `{party}` needs {' and '.join(f'`{n}`' for n in beyond)}: it "
            "evaluates the whole model within its update, as lbfgs and line searches do, "
            "and no party can."
        )
    if names and not has_loss:
        return (
            f"`optimizer` of `{party}` needs the loss (`value`), which `{party}` does not "
            "compute; jsplit.with_loss(optimizer) sends it the loss, one number a step."
        )
    return (
        f"`optimizer` of `{party}` does not run on its parameters: {first_line(error)}"
    )

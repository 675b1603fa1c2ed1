"""Hyperparameters set by hand, between steps or rounds: a learning rate by round, a strength.

Those of `optax.inject_hyperparams` are part of an optimizer's state, and a
`jsplit.Strength` of its party's, so a new value compiles nothing anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jsplit.core.base import PartyState, PyTree, TrainState
from jsplit.core.checks import one_of, shown
from jsplit.core.donation import refuse_used_up
from jsplit.core.federation import Federation
from jsplit.core.typed_jax import is_traced

_Held = TypeVar("_Held", TrainState, Federation)


def set_hyperparams(
    state: _Held, values: Mapping[str, ArrayLike], *, party: str | None = None
) -> _Held:
    """Set hyperparameters that `optax.inject_hyperparams` made, and strengths of losses and links.

    A trade-off curve is one program: with the states of several runs along
    a first axis, [runs], `values` holds a number for each.

    Args:
        state: of a trainer, or of an algorithm over rounds.
        values: by name, a number for all, or one for each along the first
            axes that the hyperparameter has in the state: [clients] where
            each client has an optimizer of its own and takes its own steps,
            [runs] in a sweep. A strength is finite and at least 0.
        party: whose; by default those of every party that has them.

    Returns:
        The state with these values, for the next step or round.

    Raises:
        ValueError: if there is no such party or hyperparameter, a name is of
            both an optimizer's and a strength, a schedule would set it
            again, a strength is negative or not finite, or shapes do not
            fit.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
        >>> server = jsplit.segment(
        ...     lambda w, h: h @ w, init=lambda key, h: jnp.zeros(3), inputs=["h"]
        ... )
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> sgd = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
        >>> trainer = jsplit.fused(topology, sgd)
        >>> state = trainer.init(0, {"x": jnp.ones((4, 3)), "label": jnp.ones(4)})
        >>> state = jsplit.set_hyperparams(state, {"learning_rate": 0.05})
        >>> round(float(state.parties["server"].optimizer.hyperparams["learning_rate"]), 3)
        0.05
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            "`values` must be a dictionary of numbers by the names of hyperparameters, got "
            f"{type(values).__name__}."
        )
    refuse_used_up(state)
    if party is not None:
        one_of("party", party, [*state.parties])
    found: set[str] = set()
    strengths: set[str] = set()
    parties: dict[str, PartyState] = {}
    for name, own in state.parties.items():
        if party in (None, name):
            setting = _Setting(name, values, found)
            own = own._replace(
                optimizer=setting.set(own.optimizer),
                strengths=_set_strengths(name, own.strengths, values),
            )
            strengths |= own.strengths.keys()
        parties[name] = own
    # Which of the two was meant nobody can know, and both would be set.
    if twice := sorted(values.keys() & found & strengths):
        raise ValueError(
            f"`values` names `{twice[0]}`, which is a hyperparameter of an optimizer and "
            "a jsplit.Strength as well: give the strength another name, or say `party`."
        )
    if missing := sorted(values.keys() - found - strengths):
        have = ", ".join(sorted(found | strengths)) or "none"
        raise ValueError(
            f"`values` names `{missing[0]}`, which no optimizer here has as a "
            f"hyperparameter, and no loss or link as a strength: there is {have}. Make "
            "the optimizer by optax.inject_hyperparams, or the weight a jsplit.Strength."
        )
    return state._replace(parties=parties)


class _Setting:
    """The values that one party's optimizers get, wherever they lie in its state."""

    def __init__(self, party: str, values: Mapping[str, ArrayLike], found: set[str]):
        self.party, self.values, self.found = party, values, found

    def set(self, memory: PyTree) -> PyTree:
        """Return an optimizer's state with the values in every record of hyperparameters."""

        def one(x: PyTree) -> PyTree:
            if not hasattr(x, "hyperparams"):
                return x
            # What `inject_hyperparams` wraps may have hyperparameters as well.
            return x._replace(
                hyperparams=self._replaced(x), inner_state=self.set(x.inner_state)
            )

        return jax.tree.map(one, memory, is_leaf=lambda x: hasattr(x, "hyperparams"))

    def _replaced(self, record: PyTree) -> dict[str, PyTree]:
        new = dict(record.hyperparams)
        self.found.update(new)
        for name, value in self.values.items():
            if name not in new:
                continue
            # Optax computes these again in every step.
            if name in getattr(record, "hyperparams_states", {}):
                raise ValueError(
                    f"`{name}` of `{self.party}` is set by a schedule in every step, so "
                    "what is set by hand would not act: give inject_hyperparams a "
                    "number."
                )
            if not _is_number(value):
                raise ValueError(
                    f"`{name}` of `{self.party}` must be a number, got "
                    f"{type(value).__name__}."
                )
            new[name] = _filled(name, self.party, new[name], value)
        return new


def _set_strengths(
    party: str, strengths: Mapping[str, jax.Array], values: Mapping[str, ArrayLike]
) -> Mapping[str, jax.Array]:
    """One party's strengths, with the values of those that are set."""
    new = dict(strengths)
    for name in values.keys() & new.keys():
        value = values[name]
        if not _is_number(value) or not _may_be_strength(value):
            raise ValueError(
                f"strength `{name}` of `{party}` must be a number, finite and at least "
                f"0, got {shown(value)}."
            )
        new[name] = _filled(name, party, new[name], value)
    return new


def _may_be_strength(value: ArrayLike) -> bool:
    """Whether all numbers are finite and at least 0; within a program nobody knows."""
    if is_traced(value):
        return True
    found = np.asarray(value)
    # As float32, which a strength is: 1e39 is infinite there.
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    return bool((np.isfinite(found) & (found >= 0)).all())


def _filled(name: str, party: str, old: jax.Array, value: ArrayLike) -> jax.Array:
    """An array of the shape and dtype of `old`, of one number or one for each row."""
    value = jnp.asarray(value)
    have, got = jnp.shape(old), value.shape
    if got != have[: len(got)]:
        raise ValueError(
            f"`{name}` of `{party}` must be a number or of shape {list(have)}, got shape "
            f"{list(got)}."
        )
    value = value.reshape((*got, *[1] * (len(have) - len(got))))
    # A copy: a step may use up its state, in which no two parties may share an
    # array, as `full_like` would have them do where nothing changes.
    return jnp.array(jnp.full_like(old, value), copy=True)


def _is_number(value: PyTree) -> bool:
    """Whether something is a number, or an array of numbers, none of which is NaN."""
    if is_traced(value):
        return True
    try:
        found = jnp.asarray(value)
    # Whatever kind of thing it is that JAX makes no array of.
    except (TypeError, ValueError):
        return False
    # A rate of NaN would be found at the next step, and blamed on what it did there.
    return (
        not jnp.isnan(found).any() if jnp.issubdtype(found.dtype, jnp.number) else False
    )

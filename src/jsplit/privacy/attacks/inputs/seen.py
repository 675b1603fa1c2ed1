"""What an attack on inputs reads: activations that came, and records that are nobody's secret.

Activations of public records come from the adversary's own questions to the bottom, from a
copy of it, or as pairs that it happens to have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.privacy.attacks.attack import pick, rows
from jsplit.privacy.measures.records import array_of, at_least, paired
from jsplit.privacy.traffic import Traffic

Query = Callable[[PyTree], PyTree] | PyTree
"""Activations of public records, or a function that gives them."""


class Known(NamedTuple):
    """Activations with what they are of, and those whose inputs are to be found.

    Attributes:
        public: activations of public records, float32 [public, ...], standardised.
        private: those that came, by the same mean and deviation, [records, ...].
        truth: what public records are, [public, ...].
    """

    public: jax.Array
    private: jax.Array
    truth: jax.Array

    def shuffled(self, key: jax.Array) -> Known:
        """The same where an activation is of another record: nothing can be learned."""
        order = jax.random.permutation(key, len(self.truth))
        return self._replace(truth=self.truth[order])


def received(traffic: Traffic, value: str | None) -> jax.Array:
    """Activations that came to the adversary, float32 [records, ...].

    Args:
        traffic: what it has seen.
        value: which, where several came.

    Returns:
        One array; a pytree of several lies flat.

    Raises:
        ValueError: if none came, they are of several steps, or not finite.
    """
    return laid_out(*as_received(traffic, value))


def as_received(traffic: Traffic, value: str | None) -> tuple[str, PyTree, int]:
    """The name of activations that came, these as they are, and of how many records.

    Raises:
        ValueError: if none came, or they are of several steps.
    """
    party = shown(traffic.party)
    name = pick(traffic.received, value, f"activations that came to {party}")
    step = np.asarray(traffic.step)
    if step.ndim != 1 or len(np.unique(step)) != 1:
        raise ValueError(
            "`traffic` must be of one model, got records of several steps, between "
            "which it learned: take an inference of the records, or one step."
        )
    return name, traffic.received[name], len(step)


def laid_out(name: str, value: PyTree, records: int) -> jax.Array:
    """A value as one floating array, its own shape if it is one already."""
    found = rows(name, value, records)
    leaves = jax.tree.leaves(value)
    return found.reshape(leaves[0].shape) if len(leaves) == 1 else found


def truth_of(record: PyTree, count: int, target: str) -> jax.Array:
    """The records to be found, [records, ...]; the score is held against them.

    Raises:
        ValueError: if they are not of the activations, or not finite.
    """
    found = array_of("record", record)
    if len(found) != count:
        raise ValueError(
            f"`record` must hold `{target}` of the {count} records whose activations "
            f"came, got {len(found)}."
        )
    return found


def public_of(public: PyTree, record: jax.Array, least: int = 4) -> jax.Array:
    """Public records, of the shape of private ones.

    Raises:
        ValueError: if there are none, or they have another shape.
    """
    if public is None:
        raise ValueError(
            "`public` must hold records of the same kind: without any this attack "
            "has nothing to learn from; got None."
        )
    found = array_of("public", public)
    at_least(len(found), least, "`public`")
    if found.shape[1:] != record.shape[1:]:
        raise ValueError(
            f"`public` must hold records of shape {record.shape[1:]}, as `record` "
            f"does, got {found.shape[1:]}."
        )
    return found


def known_of(
    query: Query, public: PyTree, private: jax.Array, name: str = "query"
) -> Known:
    """Activations of public records, standardised with those that came.

    Args:
        query: them, [public, ...], or a function of `public` that gives them.
        public: what they are of, [public, ...].
        private: activations that came, [records, ...].
        name: of the argument, for the error.

    Returns:
        Both by mean and deviation of public ones, so that a defence that only
        changes the scale does not look like one.

    Raises:
        ValueError: if they do not pair, or have another shape than those that came.
    """
    asked = query(public) if callable(query) else query
    if asked is None:
        raise ValueError(
            f"`{name}` must be the activations of public records, or, as `query`, a "
            "function that gives them; got None."
        )
    sizes = {x.shape[:1] for x in jax.tree.leaves(asked)}
    count = next(iter(sizes))[0] if len(sizes) == 1 and next(iter(sizes)) else 0
    answers = laid_out(name, asked, count)
    if answers.shape[1:] != private.shape[1:]:
        raise ValueError(
            f"`{name}` must give activations of shape {private.shape[1:]}, as those "
            f"that came are, got {answers.shape[1:]}."
        )
    truth = jnp.asarray(public)
    paired(name, answers, "public", truth)
    mean, deviation = answers.mean(0), answers.std(0)
    # A number that is the same for all public records would be divided by 0; one that
    # hardly varies would be noise as large as the rest.
    least = 1e-3 * deviation.mean() + jnp.finfo(jnp.float32).tiny
    scale = jnp.maximum(deviation, least)
    shown = (answers - mean) / scale
    # A number that no public record varies, as after rounding, has such a small scale
    # that one private record would be thousands off, and all guesses of it with it.
    most = jnp.abs(shown).max()
    return Known(shown, ((private - mean) / scale).clip(-most, most), truth)


def in_both(record: jax.Array, public: jax.Array) -> float:
    """How many private records are public as well, exactly: those are no secret."""
    known = {np.asarray(x).tobytes() for x in public}
    return float(sum(np.asarray(x).tobytes() in known for x in record))

"""A round that a user gives, checked, and as the arrays that programs take."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.federation import check_order
from jsplit.core.trees import abstract, as_arrays, check_weight
from jsplit.populations.round import Round
from jsplit.populations.stored import without_records
from jsplit.rounds.carry import RoundArrays
from jsplit.rounds.state import RoundInfo


def check_round(round: Round, needed: Collection[str]) -> None:
    """Refuse what is no round, or lacks one of the fields `needed`."""
    if not isinstance(round, Round):
        raise ValueError(
            "`round` must be a Round, as a population draws it, got "
            f"{type(round).__name__}."
        )
    if missing := set(needed) - round.fields.keys():
        have = ", ".join(round.fields) or "none"
        # The first by name: which of several is named must not change.
        raise ValueError(
            f"the round lacks the field `{sorted(missing)[0]}`; it has {have}."
        )
    check_weight("`weight` of the round", round.weight)


def check_clients(round: Round, own: PyTree, names: tuple[str, ...]) -> None:
    """Refuse a round of other clients than those of a state.

    Args:
        round: which clients take part.
        own: what each client of the state has of its own.
        names: the names of the clients of the state.

    Raises:
        ValueError: if their number or order differs, or something in `own`
            has no axis of clients.
    """
    for x in jax.tree.leaves(own):
        if not np.ndim(x):
            raise ValueError(
                "the state has one number where each client has its own: give "
                f"{round.clients}, one for each, or set hyperparameters by "
                "jsplit.set_hyperparams."
            )
        # JAX clamps an index out of range, so clients would silently be
        # others.
        if x.shape[0] != round.clients:
            raise ValueError(
                f"the round is of {round.clients} clients, but the state is of "
                f"{x.shape[0]}; a test set for each is drawn from "
                "jsplit.population.everyone(records, clients)."
            )
    if jax.tree.leaves(own):
        check_order("the round", round.names, names)


def fields_read(round: Round, needed: Collection[str]) -> dict[str, PyTree]:
    """Return the fields of the round that are `needed`."""
    # What nobody reads is not moved to a device. Here and not where a round is
    # drawn: rounds of one data set are told by the identity of what was given.
    read = {name: x for name, x in round.fields.items() if name in needed}
    return dict(as_arrays(read, "field `{}` of the round"))


def batch_shapes(round: Round, needed: Collection[str]) -> Mapping[str, PyTree]:
    """Return the shapes and dtypes of one client's batch in one step."""
    size = round.reads.shape[-1]

    def batch(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

    light = round._replace(fields=without_records(round.fields))
    return jax.tree.map(batch, abstract(fields_read(light, needed)))


def round_arrays(round: Round, group: int) -> RoundArrays[np.ndarray]:
    """Return the arrays of a round, filled up to whole groups of `group` clients.

    Those who fill up take no step.
    """
    count = len(round.client)
    more = -count % group
    reads, weight, client, steps, share = (
        np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)])
        for x in (round.reads, round.weight, round.client, round.steps, round.share)
    )
    reads = reads_that_count(reads, weight)
    # The number of nobody: what it would write is dropped. With a number
    # of somebody, it would write that client's old state over its new one.
    client[count:] = round.clients

    # Steps are numbered as if clients took turns, so that randomness does
    # not depend on how many run at once.
    before = np.cumsum(steps, dtype=np.int32) - steps
    return RoundArrays(reads, weight, client, steps, share, before)


def first_clients(info: RoundInfo, count: int) -> RoundInfo:
    """Return the losses of a round, without the clients that fill up a group.

    Of these `round_arrays` adds some.
    """
    each = {n: x[..., :count] for n, x in info.each.items()}
    # Of several rounds there is an axis of these before that of the clients.
    axis = info.examples.ndim - 1
    recorded = jax.tree.map(
        lambda x: jax.lax.slice_in_dim(x, 0, count, axis=axis), info.recorded
    )
    examples = info.examples[..., :count]
    return info._replace(each=each, examples=examples, recorded=recorded)


def reads_that_count(reads: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The records read, [K, S, B], with others for those that count nowhere in a round.

    What fills up a batch is a record of the client that counts elsewhere. One to which
    somebody has given weight 0, as its label is missing, may hold anything.
    """
    counts = np.asarray((weight > 0).reshape(*reads.shape, -1).any(-1))
    if counts.all() or not counts.any():
        return reads
    everyone, new = np.unique(reads[counts]), reads.copy()
    for of_client, its in zip(new, counts, strict=True):
        own = np.unique(of_client[its])
        bad = ~its & ~np.isin(of_client, own)
        known = own if own.size else everyone
        of_client[bad] = np.resize(known, int(bad.sum()))
    return new


def is_ragged(arrays: RoundArrays[np.ndarray]) -> bool:
    """Return whether an example counts other than 1 in a step that is taken."""
    # Where none does, trainers get no weights: a loss may then be one
    # number for a batch. Weights of steps that are not taken do not
    # matter.
    shape = arrays.reads.shape
    taken = np.arange(shape[-2]) < arrays.steps[..., None]
    other = (arrays.weight != 1).reshape(*shape, -1).any(-1)
    # Weights of entries are told even if all are 1: what they are of has to fit.
    finer = arrays.weight.ndim > arrays.reads.ndim
    return finer or bool(np.any(other & taken[..., None]))

"""A state that a step has used up says so in our words, with the cure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax

from jsplit.core.base import PyTree, TrainState
from jsplit.core.typed_jax import is_traced

Result = TypeVar("Result")

# JAX raises one kind where an array is read, and another where a program is called.
USED = (RuntimeError, ValueError)
"""What JAX raises where an array is read that has been donated."""


def call_on_state(
    state: PyTree, function: Callable[..., Result], *args: PyTree
) -> Result:
    """Call a function of a state, and name the cause if that is used up."""
    try:
        return function(*args)
    except USED as error:
        refuse_used_up(state, error)
        raise


def refuse_used_up(state: PyTree, error: Exception | None = None) -> None:
    """Name the cause, if a call fails since it was given a state that is used up.

    Args:
        state: that the call was given.
        error: that it raised; none where it is asked before anything is read.

    Raises:
        ValueError: saying what to do.
    """
    if is_used_up(state):
        raise ValueError(
            "this state is used up: a step that was given it has donated its arrays. Go "
            "on with the state that the step gave back; to keep older ones, make the "
            "trainer with `donate=False`, or save them."
        ) from error


def is_used_up(state: PyTree) -> bool:
    """Whether an array of a state is deleted."""
    return any(
        isinstance(x, jax.Array) and not is_traced(x) and x.is_deleted()
        for x in jax.tree.leaves(state)
    )


def step_of(state: TrainState) -> int:
    """The number of the step that led to a state, counted from 1."""
    # The same at all parties, of which some may lie in other processes.
    steps = [x.step for x in state.parties.values()]
    here = [x for x in steps if getattr(x, "is_fully_addressable", True)]
    return int((here or steps)[0])

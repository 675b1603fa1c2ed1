"""Arguments that users give, checked: the error names the argument, what was expected, and what came."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

import jax.numpy as jnp


def topological_order(reads: Mapping[str, Sequence[str]], what: str) -> list[str]:
    """The names in the order given, but each after those it reads."""
    order: list[str] = []
    while left := [n for n in reads if n not in order]:
        ready = [n for n in left if not any(i in left for i in reads[n])]
        if not ready:
            while loose := [n for n in left if not any(n in reads[m] for m in left)]:
                left = [n for n in left if n not in loose]
            raise ValueError(
                f"{what} {', '.join(f'`{n}`' for n in left)} read each other's values in a circle."
            )
        order.append(ready[0])
    return order


def first_line(error: Exception) -> str:
    """Kind and first line of an error that somebody else's code raised."""
    return ": ".join(
        filter(None, (type(error).__name__, str(error).strip().partition("\n")[0]))
    )


def as_positive_int(name: str, value: Any) -> int:
    """The argument `name` as a plain integer from 1 on."""
    try:
        found = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        found = 0
    if found < 1:
        got = (
            f"an array of shape {jnp.shape(value)}"
            if getattr(value, "shape", ())
            else repr(value)
        )
        raise ValueError(f"`{name}` must be a positive integer, got {got}.")
    return found


def names_of(what: str, names: Any, twice: bool = False) -> list[str]:
    """The argument `what` as a list of names, of one if it is a string; they differ unless a name may come `twice`."""
    found = (
        [names]
        if isinstance(names, str)
        else list(names)
        if isinstance(names, Iterable)
        else [names]
    )
    for i, name in enumerate(found):
        if not isinstance(name, str):
            raise ValueError(f"`{what}` must be names, got {name!r}.")
        if name in found[:i] and not twice:
            raise ValueError(f"`{what}` names `{name}` twice.")
    return found


def one_of(name: str, value: object, choices: Sequence) -> None:
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(str, choices))}, got {value!r}."
        )

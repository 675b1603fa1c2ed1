"""Which parameters of a model say its mode, and what each is in training.

The names that libraries use are known, in one table; others the user tells.
A boolean that nobody tells is not left alone in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from inspect import Parameter
from typing import get_args

import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown, warn_user

Flags = Mapping[str, bool | None]
"""By parameter, what it is in training; `None`: it stays at its default in both modes."""

# A name by which libraries tell a model its mode is added here.
_KNOWN = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}

# Which parameters of theirs say a mode is in the table above, so that others
# (`keepdims` of a sum) need no word.
_LIBRARIES = {"jax", "jaxlib", "numpy", "flax", "optax"}


def flags_among(parameters: Sequence[Parameter], given: Flags | None) -> Flags:
    """The flags of a model: those that are known, and those that the user tells.

    Args:
        parameters: of the model.
        given: what the user tells; it counts where a name is known too.

    Returns:
        What each flag is in training.

    Raises:
        ValueError: if the user tells something else than booleans of
            parameters.
    """
    names = [p.name for p in parameters]
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(
            '`flags` must be a dictionary by parameter, `flags={"train": True}`, got a '
            f"{type(given).__name__}."
        )
    told: dict[str, bool | None] = {n: _KNOWN[n] for n in names if n in _KNOWN}
    for name, value in (given or {}).items():
        _check_flag(name, value, parameters)
        told[name] = None if value is None else bool(value)
    return told


def by_keyword(
    what: str, name: object, parameters: Sequence[Parameter]
) -> Parameter | None:
    """The parameter to which something can go by keyword, by its name.

    Args:
        what: the argument in which the user names it.
        name: as the user wrote it.
        parameters: of the model.

    Returns:
        The parameter; `None` where only what collects keywords may take it.

    Raises:
        ValueError: if there is none, or it goes by position alone.
    """
    found = next((p for p in parameters if p.name == name), None)
    collects = any(p.kind is p.VAR_KEYWORD for p in parameters)
    # What collects keywords may hand this one on.
    if found is None and collects and isinstance(name, str):
        return None
    if found is None or found.kind in (found.VAR_POSITIONAL, found.VAR_KEYWORD):
        known = [p.name for p in parameters]
        raise ValueError(f"`{what}` names {shown(name)}, but the model takes {known}.")
    # Inputs go by position, and how many there are is not known.
    if found.kind is found.POSITIONAL_ONLY:
        raise ValueError(
            f"`{what}` names `{name}`, which the model takes by position alone; it is "
            "given by keyword."
        )
    return found


def _check_flag(name: str, value: object, parameters: Sequence[Parameter]) -> None:
    if value is not None and not isinstance(value, bool | np.bool_):
        raise ValueError(
            f"`flags` must say what `{name}` is in training, True or False, or None for "
            f"its default in both modes, got a {type(value).__name__}; `fixed` gives it another "
            "constant."
        )
    found = by_keyword("flags", name, parameters)
    if found is not None and value is None and found.default is found.empty:
        raise ValueError(
            f"`flags` must say what `{name}` is in training, True or False: it has no "
            "default at which it could stay; `fixed` gives it one value in both modes."
        )


def call_flags(flags: Flags, train: bool) -> dict[str, bool]:
    """What the flags are in a mode, by keyword."""
    told = {name: value for name, value in flags.items() if value is not None}
    return {name: value if train else not value for name, value in told.items()}


def refuse_untold(
    model: Callable[..., PyTree],
    parameters: Sequence[Parameter],
    told: Collection[str],
) -> None:
    """Refuse a boolean that has no default and is told nothing.

    Args:
        model: the function that is called, for whose parameters they are.
        parameters: of the model.
        told: those that are flags, constants or inputs.

    Raises:
        ValueError: naming it.
    """
    for p in _untold(model, parameters, told):
        if p.default is p.empty:
            raise ValueError(
                f"the model takes the boolean `{p.name}`, which has no default and is told "
                f"nothing; {_cure(p.name)}. If it is an input, name it in `inputs`; "
                f'`fixed={{"{p.name}": ...}}` gives it one value in both modes.'
            )


def warn_of_untold(
    model: Callable[..., PyTree],
    parameters: Sequence[Parameter],
    told: Collection[str],
) -> list[str]:
    """Warn of the booleans with a default that are told nothing.

    Args:
        model: the function that is called, for whose parameters they are.
        parameters: of the model.
        told: those that are flags, constants or inputs.

    Returns:
        The names that were warned of.
    """
    untold = _untold(model, parameters, told)
    names = [p.name for p in untold]
    if untold:
        stay = ", ".join(f"`{p.name}={p.default}`" for p in untold)
        none = ", ".join(f'"{name}": None' for name in names)
        warn_user(
            f"the model takes {stay}, which is told nothing, so it is the same in training "
            f"and in inference. If it says the mode, {_cure(names[0])}; if not, "
            f"`flags={{{none}}}` leaves it at its default."
        )
    return names


def _untold(
    model: Callable[..., PyTree],
    parameters: Sequence[Parameter],
    told: Collection[str],
) -> list[Parameter]:
    """The booleans of a user's model that are told nothing."""
    bound, function = set(told), model
    # What `functools.partial` has set was set by the user.
    while isinstance(function, partial):
        bound |= set(function.keywords)
        function = function.func
    if is_from_library(function):
        return []
    return [p for p in parameters if p.name not in bound and _is_boolean(p)]


def is_from_library(function: Callable[..., PyTree]) -> bool:
    """Whether a function is one of JAX, Flax and their kin, and no user's."""
    module = str(getattr(inspect.unwrap(function), "__module__", ""))
    return module.partition(".")[0] in _LIBRARIES


def _cure(name: str) -> str:
    return f'`flags={{"{name}": True}}` (or False) says what it is in training'


def _is_boolean(p: Parameter) -> bool:
    """Whether a parameter takes True or False, by its default or by what it is said to be."""
    if isinstance(p.default, bool | np.bool_):
        return True
    # A default that is another value than None says what it takes.
    if p.default is not None and p.default is not p.empty:
        return False
    said = p.annotation
    # A module may have its annotations as text.
    if isinstance(said, str):
        inner = said.strip().removeprefix("typing.").removeprefix("Optional[")
        return "bool" in [word.strip(" ]") for word in inner.split("|")]
    return said is bool or bool in get_args(said)

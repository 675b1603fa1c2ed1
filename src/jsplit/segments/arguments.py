"""Arguments of a model that are no batch: keys, random streams and constants.

Which parameters get the key of a step is known by `rngs` and `key`, or told;
constants are told. All go by keyword, in training and in inference.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, auto
from inspect import Parameter
from zlib import crc32

import jax
from flax import linen, nnx

from jsplit.core.base import PyTree
from jsplit.core.checks import names_of, shown
from jsplit.core.keys import is_key
from jsplit.segments.flags import by_keyword, is_from_library

Constants = Mapping[str, PyTree]
"""By parameter, what it is given at every call."""

# The attributes by which layers of nnx say their mode. A constant of one of these
# names holds for all layers of a module whose call takes no such argument.
MODES = ("deterministic", "use_running_average")

# What `apply` of linen takes itself, so that it reaches no model by keyword.
_OF_LINEN = {"variables", "rngs", "method", "mutable", "capture_intermediates"}


class Draw(Enum):
    """As what a parameter gets the key: as it is, or as the streams of `nnx.Rngs`."""

    KEY = auto()
    STREAMS = auto()


def keys_among(
    model: Callable[..., PyTree],
    parameters: Sequence[Parameter],
    given: str | Sequence[str] | None,
    taken: Collection[str],
) -> dict[str, Draw]:
    """The parameters of a model that get the key: those known, and those told.

    Args:
        model: a module or a function.
        parameters: of its call.
        given: names that the user tells.
        taken: parameters that the user has told to be something else.

    Returns:
        As what each gets it; those known first.

    Raises:
        ValueError: if a name is no parameter that is given by keyword.
    """
    told = [] if given is None else names_of("key", given)
    for name in told:
        _check_named("key", name, parameters, model)

    found: dict[str, Draw] = {}
    for p in parameters:
        if p.name in taken or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if _takes_streams(model, p) and not _draws_itself(model):
            found[p.name] = Draw.STREAMS
        # A module draws from its own streams, so a `key` of its `__call__` is an
        # input (of attention, say).
        is_module = isinstance(model, nnx.Module | linen.Module)
        if p.name == "key" and given is None and not is_module:
            found["key"] = Draw.KEY
    by_name = {p.name: p for p in parameters}
    for name in told:
        streams = name in by_name and _takes_streams(model, by_name[name])
        # One that collects keywords hands it on to who takes it.
        streams |= name not in by_name and _is_rngs(model, name)
        found[name] = Draw.STREAMS if streams else Draw.KEY
    if isinstance(model, linen.Module):
        refuse_of_linen([*found])
    return found


def _takes_streams(model: Callable[..., PyTree], p: Parameter) -> bool:
    if p.annotation is p.empty:
        return _is_rngs(model, p.name)
    # As text: an annotation may be one, or a union.
    return "Rngs" in str(p.annotation)


def _is_rngs(model: Callable[..., PyTree], name: str) -> bool:
    return isinstance(model, nnx.Module) and name == "rngs"


def _draws_itself(model: Callable[..., PyTree]) -> bool:
    """Whether a layer of a library has streams of its own, beside which it needs none."""
    if not isinstance(model, nnx.Module) or not is_from_library(type(model).__call__):
        return False
    return any(isinstance(x, nnx.RngStream) for _, x in nnx.iter_graph(model))


def fixed_among(
    model: Callable[..., PyTree],
    parameters: Sequence[Parameter],
    given: Constants | None,
) -> dict[str, PyTree]:
    """The constants of a model, as the user tells them.

    Args:
        model: a module or a function.
        parameters: of its call.
        given: what the user tells.

    Returns:
        The same, in a dictionary of its own.

    Raises:
        ValueError: if a name is no parameter that is given by keyword, or a value is
            none that stays as it is.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(
            '`fixed` must be a dictionary by parameter, `fixed={"cache": None}`, got '
            f"{shown(given)}."
        )
    for name, value in (given or {}).items():
        if not is_attribute(model, parameters, name):
            _check_named("fixed", name, parameters, model)
        leaves = jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, _OBJECTS))
        for x in leaves:
            if isinstance(x, nnx.Rngs | nnx.RngStream) or (
                isinstance(x, jax.Array) and is_key(x)
            ):
                raise ValueError(
                    f"`fixed` gives `{name}` a key, which would be the same in every step; "
                    f'`key="{name}"` gives it the key of each.'
                )
            if isinstance(x, nnx.Module | linen.Module):
                raise ValueError(
                    f"`fixed` gives `{name}` a {type(x).__name__}, whose parameters would "
                    "become constants; make it a part of the model."
                )
    return dict(given or {})


_OBJECTS = (nnx.Rngs, nnx.RngStream, nnx.Module, linen.Module)


def is_attribute(
    model: Callable[..., PyTree], parameters: Sequence[Parameter], name: str
) -> bool:
    """Whether a constant is the mode of an nnx module's layers, and no argument."""
    if not isinstance(model, nnx.Module) or name not in MODES:
        return False
    # The call of a layer takes it as an argument, which is the same.
    if any(p.name == name for p in parameters):
        return False
    return any(hasattr(child, name) for _, child in nnx.iter_modules(model))


def _check_named(
    what: str,
    name: object,
    parameters: Sequence[Parameter],
    model: Callable[..., PyTree],
) -> None:
    """Refuse a name that is no parameter to which something can go by keyword."""
    if isinstance(model, linen.Module):
        refuse_of_linen([name])
    by_keyword(what, name, parameters)


def drawn(
    keys: Mapping[str, Draw], key: jax.Array | None, apart: bool
) -> dict[str, PyTree]:
    """What the parameters that get a key are given, by keyword.

    Args:
        keys: as what each gets it.
        key: of the step; in inference there may be none.
        apart: whether something else draws from the key itself.

    Returns:
        The key itself to the first, unless something else has it; to the others one
        that is folded from their name.
    """
    # In inference there may be no key, and a model that does not draw from it
    # then must still get one.
    if not keys:
        return {}
    key = jax.random.key(0) if key is None else key
    found: dict[str, PyTree] = {}
    for i, (name, draw) in enumerate(keys.items()):
        own = key
        if i or apart:
            # A number of 32 bits: streams fold small ones, and would draw the same.
            own = jax.random.fold_in(key, crc32(name.encode()))
        found[name] = nnx.Rngs(own) if draw is Draw.STREAMS else own
    return found


def fresh(fixed: Constants) -> dict[str, PyTree]:
    """Constants in containers of their own: a model may write into what it is given."""
    return {name: jax.tree.map(lambda x: x, value) for name, value in fixed.items()}


def default_of(parameters: Sequence[Parameter], name: str) -> PyTree:
    """What a parameter is if it is not given: its default, or else `None`."""
    p = next(p for p in parameters if p.name == name)
    return None if p.default is inspect.Parameter.empty else p.default


def refuse_of_linen(names: Sequence[object]) -> None:
    """Refuse arguments by keyword that `apply` of linen would take for its own."""
    for name in names:
        if name in _OF_LINEN:
            raise ValueError(
                f"the model takes `{name}`, which by keyword is an argument of linen's own "
                "`apply`; give this parameter of the model another name."
            )


def refuse_twice(
    inputs: Sequence[str] | None,
    flags: Mapping[str, bool | None] | None,
    fixed: Constants | None,
    key: str | Sequence[str] | None,
) -> None:
    """Refuse a parameter that a user has told to be two things."""
    told = {
        "inputs": inputs or (),
        "flags": flags or (),
        "fixed": fixed or (),
        "key": (key,) if isinstance(key, str) else key or (),
    }
    where: dict[str, str] = {}
    for argument, names in told.items():
        for name in names:
            if where.setdefault(name, argument) != argument:
                raise ValueError(
                    f"`{name}` is in `{where[name]}` and in `{argument}`; it is one."
                )

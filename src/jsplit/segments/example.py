"""Which arguments of a model an example gives, and what in it is no input.

An example is the inputs by position, or one batch that has them by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from jsplit.core.base import PyTree
from jsplit.core.keys import is_key


class Matched(NamedTuple):
    """The inputs of a model that an example gives.

    Attributes:
        inputs: their names; `None` where the signature does not say.
        values: in the same order.
        absent: the parameters that are not given, for which the example has `None`.
    """

    inputs: tuple[str, ...] | None
    values: tuple[PyTree, ...]
    absent: tuple[str, ...] = ()


def match_example(
    example: Sequence[PyTree],
    inputs: Sequence[str] | None,
    order: Sequence[str],
    required: Sequence[str],
    keyed: Collection[str] = (),
    free: bool = False,
) -> Matched:
    """The inputs of a model that an example gives, by their names.

    Args:
        example: the inputs by position, or one dictionary of fields, some of which
            the model may not read (labels). One that lacks the model's only
            required input is that input itself.
        inputs: names that the user gave.
        order: the parameters that inputs go to, in their order.
        required: those without a default.
        keyed: the parameters that get a key.
        free: whether nothing is known of the parameters.

    Returns:
        The inputs. Parameters with a default are among them if the example has them.

    Raises:
        ValueError: naming the parameter and the argument to use, if the example lacks
            an input, or has something that is none.
    """
    names = tuple(inputs) if inputs else None
    values = tuple(example)
    if len(values) == 1 and isinstance(values[0], Mapping):
        names, values = _from_fields(values[0], names, order, required)
    check_values(names or order, values, keyed)
    if free:
        if any(x is None for x in values):
            raise ValueError(
                "the example has `None`, but the model's parameters have no names, so none "
                "of them can be left out."
            )
        return Matched(names, values)

    # What lies beyond the inputs and is not given: a key, say.
    count = len(values)
    while count > len(order) and values[count - 1] is None:
        count -= 1
    values = values[:count]
    if names is None:
        names = tuple(order[: max(len(values), len(required))])
    if len(names) != len(values) or not names:
        raise ValueError(_count_error(names, len(values)))

    pairs = list(zip(names, values, strict=True))
    absent = [order[i] for i, x in enumerate(values) if x is None]
    there = [(name, x) for name, x in pairs if x is not None]
    if not there:
        raise ValueError(f"the example gives none of the model's inputs {[*names]}.")
    kept, values = zip(*there, strict=True)
    return Matched(kept, values, tuple(absent))


def _from_fields(
    fields: Mapping[str, PyTree],
    names: tuple[str, ...] | None,
    order: Sequence[str],
    required: Sequence[str],
) -> tuple[tuple[str, ...] | None, tuple[PyTree, ...]]:
    """The inputs among the fields of a batch; else the dictionary is the only input."""
    needed = names or tuple(required)
    wanted = names or tuple(n for n in order if n in fields or n in required)
    lacking = [name for name in needed if name not in fields]
    if lacking and len(needed) > 1:
        there = ", ".join(map(str, fields)) or "none"
        raise ValueError(
            f"the model takes the input `{lacking[0]}`, which the example lacks; it has "
            f"{there}."
        )
    if lacking or not wanted:
        return names, (fields,)
    return wanted, tuple(fields[name] for name in wanted)


def _count_error(names: Sequence[str], count: int) -> str:
    said = f"the model takes `inputs` {[*names]}, but the example has {count}"
    if count >= len(names):
        return f"{said}."
    name = names[count]
    return (
        f"{said}, without `{name}`: an input belongs in the example; a key is given by "
        f'`key="{name}"`, a constant by `fixed={{"{name}": ...}}`, and what says the mode '
        "by `flags`."
    )


def check_values(
    names: Sequence[str], values: Sequence[PyTree], keyed: Collection[str] = ()
) -> None:
    """Refuse what is no input in the place of one, with the argument to use.

    Args:
        names: of the inputs.
        values: the example.
        keyed: the parameters that get a key.

    Raises:
        ValueError: naming the parameter.
    """
    beyond = [*names, *keyed]
    for i, x in enumerate(values):
        name = beyond[i] if i < len(beyond) else f"argument {i}"
        place = f"the example of `{name}`"
        streams = isinstance(x, nnx.Rngs | nnx.RngStream)
        if streams or _is_key(name, x):
            what = "random streams" if streams else "a key"
            cure = f'leave it out; `key="{name}"` gives the model the key of each step.'
            if name in keyed or i >= len(names):
                cure = "leave it out: the model is given the key of each step."
            raise ValueError(f"{place} is {what} and no input; {cure}")
        # A number alone has no batch axis, but a boolean is meant otherwise.
        if isinstance(x, bool | np.bool_):
            raise ValueError(
                f'{place} must hold arrays, or their shapes, got a boolean; `flags={{"{name}"'
                f': True}}` (or False) says what it is in training, and `fixed={{"{name}": '
                "...}` what it is in both modes."
            )
        if isinstance(x, str | int | float | complex) or callable(x):
            raise ValueError(
                f"{place} must hold numbers, got {type(x).__name__} and no array; a "
                f'constant of the model is given by `fixed={{"{name}": ...}}`.'
            )


def _is_key(name: str, x: PyTree) -> bool:
    if isinstance(x, jax.Array | jax.ShapeDtypeStruct) and is_key(x):
        return True
    # A raw key looks as two examples of numbers do; the name tells them apart.
    words = name.lower().split("_")
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    raw = shape in ((2,), (4,)) and dtype == np.uint32
    return raw and any(w in ("key", "keys", "rng", "rngs") for w in words)

"""What an optimizer is made of, and so what it asks for: norms of all parties, or the loss.

Optax makes optimizers of closures, which are looked through.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping

import jax
import optax

from jsplit.training.global_norm import ClipUpdate, ValueUpdate


def parts_of(optimizer: object) -> Iterator[object]:
    """The functions and objects that an optimizer is made of.

    Optax makes optimizers of closures, so what they close over is looked through.
    """
    seen: set[int] = set()
    left = [optimizer]
    while left:
        x = left.pop()
        if id(x) in seen or isinstance(x, (type, types.ModuleType, str, jax.Array)):
            continue
        seen.add(id(x))
        yield x
        left += _within(x)


def _within(x: object) -> list[object]:
    if isinstance(x, (tuple, list)):
        return list(x)
    if isinstance(x, Mapping):
        return list(x.values())
    if isinstance(x, functools.partial):
        return [x.func, *x.args, *x.keywords.values()]
    if isinstance(x, types.MethodType):
        return [x.__self__, x.__func__]
    if isinstance(x, types.FunctionType):
        cells = [c.cell_contents for c in x.__closure__ or () if _is_filled(c)]
        return [*cells, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
    # An object that holds others, as a dataclass or `optax.MultiSteps` does.
    return list(vars(x).values()) if hasattr(x, "__dict__") else []


def _is_filled(cell: types.CellType) -> bool:
    # A function that is defined further down than it is closed over.
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def norms_of(optimizers: Mapping[str, optax.GradientTransformation]) -> tuple[str, ...]:
    """The names of the norms that all parties' optimizers share.

    Args:
        optimizers: by party, of those that own parameters.

    Raises:
        ValueError: if one party shares a norm that another does not, or one optimizer
            has two of one name.
    """
    found = {}
    for party, optimizer in optimizers.items():
        names = sorted(x.name for x in clips_of(optimizer))
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"`optimizer` of `{party}` has clip_by_global_norm more than once "
                    f"with the name {name!r}; give each a `name`."
                )
        found[party] = tuple(names)
    _check_one_bound(optimizers)
    if len({*found.values()}) > 1:
        said = "; ".join(f"`{p}`: {', '.join(x) or 'none'}" for p, x in found.items())
        raise ValueError(
            "`optimizer`: clip_by_global_norm is over the gradients of all parties, so it "
            f"must stand in the optimizer of each that owns parameters; got {said}."
        )
    return next(iter(found.values()), ())


def _check_one_bound(optimizers: Mapping[str, optax.GradientTransformation]) -> None:
    """Refuse parties that clip by one norm to different bounds."""
    bounds: dict[str, dict[str, float]] = {}
    for party, optimizer in optimizers.items():
        for x in clips_of(optimizer):
            bounds.setdefault(x.name, {})[party] = x.max_norm
    for name, by_party in bounds.items():
        if len({*by_party.values()}) > 1:
            said = ", ".join(f"{bound} at `{p}`" for p, bound in by_party.items())
            raise ValueError(
                f"`optimizer`: clip_by_global_norm of the name {name!r} must have one "
                f"`max_norm` at all parties, got {said}."
            )


def clips_of(optimizer: optax.GradientTransformation) -> list[ClipUpdate]:
    """The clip_by_global_norm in an optimizer."""
    return [x for x in parts_of(optimizer) if isinstance(x, ClipUpdate)]


def needs_loss(optimizer: optax.GradientTransformation) -> bool:
    """Whether an optimizer does not run without the loss."""
    # Optax names what it needs beyond gradients; `optax.chain` hides it from the outside.
    found = (x for x in parts_of(optimizer) if isinstance(x, types.FunctionType))
    return any(map(_asks, found))


def _asks(function: types.FunctionType) -> bool:
    code = function.__code__
    first = code.co_argcount
    return "value" in code.co_varnames[first : first + code.co_kwonlyargcount]


def wants_loss(optimizer: optax.GradientTransformation) -> bool:
    """Whether an optimizer asks for the loss of the step, by `with_loss`."""
    return any(isinstance(x, ValueUpdate) for x in parts_of(optimizer))

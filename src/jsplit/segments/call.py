"""How a model is called: which arguments are inputs, and which say whether it trains.

A name by which libraries tell a model its mode is added here, in one of the
two tables.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter

from flax import linen, nnx

from jsplit.core.base import PyTree, SegmentApply, SegmentInit

InitApply = tuple[SegmentInit, SegmentApply]

_TRAIN_FLAGS = {"train", "training", "is_training"}
_EVAL_FLAGS = {"deterministic", "use_running_average"}

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_COLLECTING = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class Call:
    """How a model is called.

    Inputs go by position as far as they are the leading parameters, and by
    keyword from there on.

    Attributes:
        flags: the parameters that tell the mode.
        takes_key: whether a function wants the key.
        free: whether nothing is known of the parameters: any number of
            inputs is taken.
        inputs: names of the inputs, if known.
        order: the parameters that inputs go to, in their order.
        lead: how many of them go by position; `None`: all.
    """

    def __init__(
        self, model: Callable[..., PyTree], inputs: Sequence[str] | None, skip: int
    ):
        """Read the signature of a model.

        Args:
            model: a module or a function.
            inputs: names that the user gave.
            skip: how many leading parameters of a function are no inputs.

        Raises:
            ValueError: if there are more names than parameters.
        """
        is_module = isinstance(model, nnx.Module | linen.Module)
        parameters = _parameters(model, is_module)[1 if is_module else skip :]
        names = [p.name for p in parameters]
        self.flags = [n for n in names if n in _TRAIN_FLAGS | _EVAL_FLAGS]
        # A module draws from its own streams, so a `key` of its `__call__`
        # is an input (of attention, say).
        self.takes_key = not is_module and "key" in names
        collects = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.free = not parameters or collects

        told = {*self.flags, "key"} if self.takes_key else {*self.flags}
        taken = [
            p for p in parameters if p.name not in told and p.kind not in _COLLECTING
        ]
        known = [p.name for p in taken]
        required = [p.name for p in taken if p.default is p.empty]
        if not self.free and len(inputs or ()) > len(known):
            raise ValueError(f"`inputs` names {inputs}, but the model takes {known}.")

        self.inputs = self._names(inputs, required)
        self.order = _in_order(inputs, known, required)
        self.lead = None if self.free else _leading(self.order, parameters)

    def _names(
        self, inputs: Sequence[str] | None, required: Sequence[str]
    ) -> tuple[str, ...] | None:
        if inputs:
            return tuple(inputs)
        return None if self.free else tuple(required)

    def __call__(
        self,
        function: Callable[..., PyTree],
        first: tuple[PyTree, ...],
        inputs: tuple[PyTree, ...],
        train: bool,
        **named: PyTree,
    ) -> PyTree:
        """Call a function as the model is called.

        Args:
            function: the model, or what calls it with the same arguments.
            first: what comes before the inputs.
            inputs: in the order of `order`.
            train: the mode, which is told by `flags`.
            **named: what is given by keyword beside.

        Returns:
            What the function returns.

        Raises:
            ValueError: if there are too few inputs, or too many.
        """
        few, many = len(self.inputs or ()), len(self.order)
        if not self.free and not few <= len(inputs) <= many:
            raise ValueError(
                f"the model takes inputs {self.inputs}, got {len(inputs)}."
            )

        named |= {flag: train == (flag in _TRAIN_FLAGS) for flag in self.flags}
        if self.lead is not None:
            # Optional parameters beyond those given keep their defaults.
            by_name = zip(self.order[self.lead :], inputs[self.lead :], strict=False)
            named |= dict(by_name)
        return function(*first, *inputs[: self.lead], **named)


def _parameters(model: Callable[..., PyTree], is_module: bool) -> list[Parameter]:
    function = type(model).__call__ if is_module else model
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        # Builtins have no signature; they are taken as they come.
        return []


def _in_order(
    inputs: Sequence[str] | None, known: Sequence[str], required: Sequence[str]
) -> list[str]:
    """The parameters in the order in which inputs fill them."""
    # Names of parameters say which parameter is meant. Other names are
    # those of values, and say nothing about it: they are taken in the order
    # of the signature.
    first: Sequence[str] = required
    if inputs:
        first = inputs if set(inputs) <= set(known) else ()
    return [*first, *(n for n in known if n not in first)]


def _leading(order: Sequence[str], parameters: Sequence[Parameter]) -> int:
    """How many names in `order` are the leading parameters, and can go by position."""
    positional = [p.name for p in parameters if p.kind in _BY_POSITION]
    count = 0
    for wanted, name in zip(order, positional, strict=False):
        if wanted != name:
            break
        count += 1
    return count

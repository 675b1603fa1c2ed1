"""How a model is called: which arguments are inputs, and which say whether it trains.

Read once, from its signature; `segments/flags.py` has what is a flag.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter

from flax import linen, nnx

from jsplit.core.base import PyTree, SegmentApply, SegmentInit
from jsplit.segments.flags import Flags, call_flags, flags_among, warn_of_untold

InitApply = tuple[SegmentInit, SegmentApply]

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_COLLECTING = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class Call:
    """How a model is called.

    Inputs go by position as far as they are the leading parameters, and by
    keyword from there on.

    Attributes:
        flags: the parameters that tell the mode, and what each is in
            training.
        untold: the booleans of which nobody says whether they do.
        takes_key: whether a function wants the key.
        free: whether nothing is known of the parameters: any number of
            inputs is taken.
        inputs: names of the inputs, if known.
        order: the parameters that inputs go to, in their order.
        lead: how many of them go by position; `None`: all.
    """

    def __init__(
        self,
        model: Callable[..., PyTree],
        inputs: Sequence[str] | None,
        skip: int,
        flags: Flags | None = None,
    ):
        """Read the signature of a model.

        Args:
            model: a module or a function.
            inputs: names that the user gave.
            skip: how many leading parameters of a function are no inputs.
            flags: what the user tells of parameters that say the mode.

        Raises:
            ValueError: if there are more names than parameters, or `flags`
                does not fit.
        """
        is_module = isinstance(model, nnx.Module | linen.Module)
        function = type(model).__call__ if is_module else model
        parameters = _parameters(function)[1 if is_module else skip :]
        names = [p.name for p in parameters]
        self.flags = flags_among(parameters, flags)
        if both := [n for n in inputs or () if n in (flags or ())]:
            raise ValueError(f"`{both[0]}` is in `inputs` and in `flags`; it is one.")
        # A module draws from its own streams, so a `key` of its `__call__`
        # is an input (of attention, say).
        self.takes_key = not is_module and "key" in names and "key" not in self.flags
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
        # Names that the user gave say what is an input, whatever it is.
        filled = self.order[: len(inputs or ())]
        self.untold = warn_of_untold(function, parameters, {*told, *filled})

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

        named |= call_flags(self.flags, train)
        if self.lead is not None:
            # Optional parameters beyond those given keep their defaults.
            by_name = zip(self.order[self.lead :], inputs[self.lead :], strict=False)
            named |= dict(by_name)
        return function(*first, *inputs[: self.lead], **named)


def _parameters(function: Callable[..., PyTree]) -> list[Parameter]:
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

"""How a model is called: which arguments are inputs, and which say whether it trains.

Read once, from its signature; `segments/flags.py` has what is a flag, and
`segments/arguments.py` what is a key or a constant.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter

import jax
from flax import linen, nnx

from jsplit.core.base import PyTree, SegmentApply, SegmentInit
from jsplit.segments.arguments import (
    Constants,
    default_of,
    drawn,
    fixed_among,
    fresh,
    is_attribute,
    keys_among,
    refuse_of_linen,
    refuse_twice,
)
from jsplit.segments.axes import naming_axes
from jsplit.segments.example import match_example
from jsplit.segments.flags import (
    Flags,
    call_flags,
    flags_among,
    refuse_untold,
    warn_of_untold,
)

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
        keys: the parameters that get the key, and as what.
        fixed: the constants.
        attributes: those constants that are the mode of an nnx module's layers.
        mode_is_fixed: whether a constant stands for what would tell the mode.
        free: whether nothing is known of the parameters: any number of
            inputs is taken.
        inputs: names of the inputs, if known.
        example: the inputs of the example, in the order of `inputs`.
        order: the parameters that inputs go to, in their order.
        lead: how many of them go by position; `None`: all.
    """

    def __init__(
        self,
        model: Callable[..., PyTree],
        inputs: Sequence[str] | None,
        skip: int,
        flags: Flags | None = None,
        key: str | Sequence[str] | None = None,
        fixed: Constants | None = None,
        example: Sequence[PyTree] | None = None,
    ):
        """Read the signature of a model.

        Args:
            model: a module or a function.
            inputs: names that the user gave.
            skip: how many leading parameters of a function are no inputs.
            flags: what the user tells of parameters that say the mode.
            key: names of parameters that get the key, as the user gave them.
            fixed: the constants that the user gave.
            example: the inputs by position, or one batch; `None` if there is none.

        Raises:
            ValueError: if there are more names than parameters, or an argument
                does not fit.
        """
        is_module = isinstance(model, nnx.Module | linen.Module)
        function = type(model).__call__ if is_module else model
        parameters = _parameters(function)[1 if is_module else skip :]
        given = fixed_among(model, parameters, fixed)
        self.attributes = {
            n: x for n, x in given.items() if is_attribute(model, parameters, n)
        }
        self.fixed = {n: x for n, x in given.items() if n not in self.attributes}
        known_flags = flags_among(parameters, flags)
        self.flags = {n: x for n, x in known_flags.items() if n not in self.fixed}
        self.mode_is_fixed = bool(self.attributes or {*known_flags} & {*self.fixed})
        taken_up = {*self.fixed, *self.flags, *(inputs or ())}
        self.keys = keys_among(model, parameters, key, taken_up)
        refuse_twice(inputs, flags, fixed, key)
        collects = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.free = not parameters or collects

        told = {*self.flags, *self.keys, *self.fixed}
        taken = [
            p for p in parameters if p.name not in told and p.kind not in _COLLECTING
        ]
        known = [p.name for p in taken]
        required = [p.name for p in taken if p.default is p.empty]
        if not self.free and len(inputs or ()) > len(known):
            raise ValueError(f"`inputs` names {inputs}, but the model takes {known}.")

        # Names that the user gave say what is an input, whatever it is.
        filled = _in_order(inputs, known, required)[: len(inputs or ())]
        refuse_untold(function, parameters, {*told, *filled})
        self.example: tuple[PyTree, ...] = ()
        self.order = _in_order(inputs, known, required)
        if example is not None:
            matched = match_example(
                example, inputs, self.order, required, self.keys, self.free
            )
            inputs, self.example = matched.inputs, matched.values
            # They stay at their defaults, in whatever order the others come.
            for name in matched.absent:
                self.fixed[name] = default_of(parameters, name)
            self.order = [n for n in self.order if n not in self.fixed]
            self.order = _in_order(inputs, self.order, required)

        self.inputs = self._names(inputs, required)
        self.lead = None if self.free else _leading(self.order, parameters)
        if isinstance(model, linen.Module) and self.lead is not None:
            refuse_of_linen(self.order[self.lead : len(self.inputs or ())])
        filled = self.order[: len(inputs or ())]
        told |= {*self.fixed, *filled}
        self.untold = warn_of_untold(function, parameters, told)

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

        named |= call_flags(self.flags, train) | fresh(self.fixed)
        if self.lead is not None:
            # Optional parameters beyond those given keep their defaults.
            by_name = zip(self.order[self.lead :], inputs[self.lead :], strict=False)
            named |= dict(by_name)
        with naming_axes():
            return function(*first, *inputs[: self.lead], **named)

    def drawn(self, key: jax.Array | None, apart: bool = False) -> dict[str, PyTree]:
        """What goes by keyword to the parameters that get the key.

        Args:
            key: of the step, if there is one.
            apart: whether something else draws from the key itself.
        """
        return drawn(self.keys, key, apart)


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

"""How a model is called: which arguments are inputs, and which say whether it trains."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from flax import linen, nnx

from jsplit.core.base import Params, PyTree, State

_TRAIN_FLAGS = {"train", "training", "is_training"}


_EVAL_FLAGS = {"deterministic", "use_running_average"}


class Call:
    """How a model is called: the names of its inputs, and the flags that tell it the mode.

    Inputs go by position as far as they are the leading parameters, and by keyword from there on.
    """

    def __init__(self, model: Callable, inputs: Sequence[str] | None, skip: int):
        self.is_module = isinstance(model, (nnx.Module, linen.Module))
        function = type(model).__call__ if self.is_module else model
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # builtins without a signature
            parameters = []
        parameters = parameters[1 if self.is_module else skip :]
        names = [p.name for p in parameters]
        self.flags = [n for n in names if n in _TRAIN_FLAGS | _EVAL_FLAGS]
        self.takes_key = not self.is_module and "key" in names
        self.free = not parameters or any(
            p.kind is p.VAR_POSITIONAL for p in parameters
        )
        told = {*self.flags, *(["key"] if self.takes_key else [])}
        taken = [
            p
            for p in parameters
            if p.name not in told and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        known = [p.name for p in taken]
        required = [p.name for p in taken if p.default is p.empty]
        if not self.free and len(inputs or ()) > len(known):
            raise ValueError(f"`inputs` names {inputs}, but the model takes {known}.")
        self.inputs = tuple(inputs or (() if self.free else required)) or (
            None if self.free else ()
        )
        first = (
            list(inputs)
            if inputs and set(inputs) <= set(known)
            else []
            if inputs
            else required
        )
        self.order = [*first, *(n for n in known if n not in first)]
        leading = [
            p.name
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        same = [a == b for a, b in zip(self.order, leading, strict=False)]
        self.lead = None if self.free else [*same, False].index(False)

    def __call__(
        self,
        function: Callable,
        first: tuple,
        inputs: tuple,
        train: bool,
        **named: PyTree,
    ) -> PyTree:
        if not self.free and not len(self.inputs or ()) <= len(inputs) <= len(
            self.order
        ):
            raise ValueError(
                f"the model takes inputs {self.inputs}, got {len(inputs)}."
            )
        named |= {flag: train == (flag in _TRAIN_FLAGS) for flag in self.flags}
        if self.lead is not None:
            named |= zip(self.order[self.lead :], inputs[self.lead :], strict=False)
        return function(*first, *inputs[: self.lead], **named)


Parts = tuple[Callable[..., tuple[Params, State]], Callable[..., tuple[PyTree, State]]]

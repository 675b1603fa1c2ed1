"""From a Flax module or a plain function to a `Segment`.

A Flax nnx module, a Flax linen module and a function differ in where
parameters, statistics and random streams live. Here all become explicit
arguments of one pure function. Another kind of model is taken in here,
by functions like those of `segments/flax.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
from flax import linen, nnx

from jsplit.core.base import Params, PyTree, Segment, State
from jsplit.core.checks import names_of
from jsplit.segments.arguments import Constants
from jsplit.segments.call import Call, InitApply
from jsplit.segments.captured import refuse_captured_modules
from jsplit.segments.example import match_example
from jsplit.segments.flags import Flags
from jsplit.segments.flax import from_linen, from_nnx
from jsplit.segments.one_mode import (
    may_have_modes,
    warn_of_thawed,
    warning_of_one_mode,
)
from jsplit.segments.trainable import (
    Trainable,
    Trains,
    checked,
    is_trained,
    params_filter,
    trains_of,
)

Model = nnx.Module | linen.Module | Callable[..., PyTree] | Segment
"""What `segment`, and all that takes whole models, makes a segment of."""


def segment(
    model: Model,
    *,
    init: Callable[..., Params] | None = None,
    variables: Mapping[str, PyTree] | None = None,
    inputs: Sequence[str] | None = None,
    flags: Flags | None = None,
    key: str | Sequence[str] | None = None,
    fixed: Constants | None = None,
    name: str | None = None,
    trainable: Trainable | None = None,
) -> Segment:
    """Make a `Segment` that computes what a model computes.

    - **nnx module**: parameters are its `nnx.Param` variables, state is
      every other variable except random streams; `init` returns the
      values that the module has now, whatever the key. `train` switches
      it with `module.train()` and `module.eval()`. The module itself is
      never changed. Its random streams are reseeded from the key on
      every call, as by `nnx.reseed(module, <stream>=key)`. An argument
      `rngs` of its call is given `nnx.Rngs(key)`, of another key if the
      module has streams of its own.
    - **linen module**: parameters are the collection `params`, state is
      every other collection but `intermediates`; `init` is
      `module.init(key, ...)`. The key is `apply`'s `rngs`, for every
      stream.
    - **function**: `model(params, *inputs)` with `init(key, *inputs) ->
      params`, or, without `init`, `model(*inputs)` with no parameters.
      A parameter called `key` receives the key.

    A `__call__` or function that takes any of `train`, `training`,
    `is_training`, `deterministic` and `use_running_average` is told the
    mode by these names, and one that takes another by `flags`. A
    boolean with a default that is told nothing, and a model with
    dropout or BatchNorm that computes the same in both modes, are
    warned of, since they would train in inference mode. What a module
    sows is sown anew on every call: it is part of the new state, so a
    `Penalty` can read it, and never fed back.

    Args:
        model: what to wrap; a `Segment` is returned with `inputs` and
            `name` replaced where given.
        init: for functions with parameters, `init(key, *inputs) ->
            params`.
        variables: for linen, what `module.init` would return: start
            from these values.
        inputs: names of the positional inputs, or the name of the only
            one; by default those of the signature that have no default.
        flags: what parameters that say the mode are in training,
            `{"is_train": True}`; in inference they are the other. A
            known name may be among them. `None` for a parameter that
            stays at its default in both modes. `{}`, or `None` for all
            of them, says that nothing else tells the mode either.
        key: parameters that are given the key of each step, `"z_rng"`, or
            several names. The first is given the key itself, unless an nnx
            module has streams of its own; others one folded from their name.
            In inference without a key it is `jax.random.key(0)`.
        fixed: constants by parameter, `{"cache": None, "decode": False}`,
            given at every call, in both modes. For an nnx module
            `{"use_running_average": True}` and `{"deterministic": True}`
            hold for all its layers (frozen statistics), also where its call
            takes no such argument.
        name: name of the value produced.
        trainable: which parameters are trained; all others are frozen, and cost no
            gradient, residual or optimizer state. A filter of nnx (`nnx.LoRAParam`);
            paths (`"lora_*"`, `["encoder.head"]`), which must each match, or a function
            of the path (in nnx, of an `nnx.Param`); `False`: none. By default all.

    Returns:
        A `Segment`.

    Raises:
        ValueError: if an argument does not belong to this kind of
            model, if `flags` names no parameter or says other things
            than booleans, if a boolean without a default is told
            nothing, if a function holds a module whose parameters
            would become constants, or `trainable` matches nothing.

    Examples:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from flax import nnx
        >>> bottom = jsplit.segment(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), inputs=["x"])
        >>> bottom
        Segment(x -> ...)
        >>> params, state = bottom.init(jax.random.key(0), jnp.ones((4, 3)))
        >>> jax.tree.map(jnp.shape, params)
        {'bias': (2,), 'kernel': (3, 2)}

        A function with parameters:

        >>> def dense(weight, h):
        ...     return h @ weight
        >>> jsplit.segment(dense, init=lambda key, h: jnp.zeros((2, 1)), name="logits")
        Segment(h -> logits)

        A flag of another name:

        >>> def noisy(x, key, is_train=False):
        ...     return x + jax.random.normal(key, x.shape) * is_train
        >>> jsplit.segment(noisy, flags={"is_train": True})
        Segment(x -> ...)
    """
    told = Told(init, variables, inputs, flags, key, fixed, name, trainable)
    return segment_and_inputs(model, None, told)[0]


class Told(NamedTuple):
    """What a user tells of a model: the arguments of `segment`, by the same names."""

    init: Callable[..., Params] | None = None
    variables: Mapping[str, PyTree] | None = None
    inputs: Sequence[str] | None = None
    flags: Flags | None = None
    key: str | Sequence[str] | None = None
    fixed: Constants | None = None
    name: str | None = None
    trainable: Trainable | None = None


def segment_and_inputs(
    model: Model, example: Sequence[PyTree] | None, told: Told
) -> tuple[Segment, tuple[PyTree, ...]]:
    """The segment of a model, and its inputs of an example.

    Args:
        model: as `segment` takes it.
        example: the inputs by position, with `None` for one that is not given; or
            one batch, of which the inputs are taken by name. `None`: there is none.
        told: what the user tells of the model.

    Returns:
        The segment, whose inputs are those that the example gives, and their values.
    """
    _check_arguments(model, told)
    given = told.inputs
    names = None if given is None else names_of("inputs", given, twice=True)
    trains = None if told.trainable is None else trains_of(model, told.trainable)
    if isinstance(model, Segment):
        known = tuple(names or model.inputs or ()) or None
        made = replace(model, inputs=known, name=told.name or model.name)
        if trains is not None:
            first, is_own = checked(made.init, trains), is_trained(made, trains)
            made = replace(made, init=first, trains=trains, trainable=is_own)
        if example is None:
            return made, ()
        matched = match_example(
            example, known, known or (), known or (), free=known is None
        )
        if matched.absent:
            raise ValueError(
                f"the example has `None` for `{matched.absent[0]}`, which the Segment takes; "
                "name the inputs that are given, `inputs=`, when it is made."
            )
        return made, matched.values

    # With an `init`, the first argument of a function is its parameters.
    skip = 0 if told.init is None else 1
    call = Call(model, names, skip, told.flags, told.key, told.fixed, example)
    (first, apply), has_parameters = _functions_of(
        model, call, told.init, told.variables, trains
    )
    if isinstance(model, nnx.Module) and not (call.mode_is_fixed or call.flags):
        warn_of_thawed(model)
    # Flags that tell nothing say that one program is right for both modes; so do constants.
    tells = told.flags is None or any(x is not None for x in told.flags.values())
    if tells and not call.mode_is_fixed and may_have_modes(model):
        first = warning_of_one_mode(first, apply, call.untold)
    made = Segment(
        checked(first, trains),
        apply,
        inputs=call.inputs,
        name=told.name,
        trainable=has_parameters,
        trains=trains,
    )
    return replace(made, trainable=is_trained(made, trains)), call.example


def unnamed_inputs(count: int) -> list[str]:
    """What the inputs are called of a model whose signature does not name them."""
    return [f"input{i}" if i else "input" for i in range(count)]


def _check_arguments(model: object, told: Told) -> None:
    """Refuse arguments that do not belong to this kind of model."""
    kind = type(model).__name__
    init, variables = told.init, told.variables
    for argument in ("flags", "key", "fixed"):
        if getattr(told, argument) is not None and isinstance(model, Segment):
            raise ValueError(
                f"`{argument}` belongs to a module or a function, got a Segment, which was "
                f"told its {argument} when it was made."
            )
    if variables is not None and not isinstance(model, linen.Module):
        raise ValueError(f"`variables` belongs to a linen module, got a {kind}.")
    if variables is not None and "params" not in variables:
        raise ValueError(
            "`variables` must hold the collection `params`, as `module.init` returns it, "
            f"got {list(variables)}."
        )
    if init is not None and isinstance(model, nnx.Module | linen.Module | Segment):
        raise ValueError(
            f"`init` belongs to a plain function, got a {kind}, which has its own."
        )
    # A class is callable, and would be taken for a function that makes
    # modules.
    if isinstance(model, type):
        raise ValueError(
            f"`model` must be a module or a function, got the class `{model.__name__}`; "
            "make one of it first."
        )
    if not callable(model) and not isinstance(model, Segment):
        raise ValueError(
            f"`model` must be a Flax module or a function, got {kind}, which has no "
            "`__call__`."
        )


def _functions_of(
    model: nnx.Module | linen.Module | Callable[..., PyTree],
    call: Call,
    init: Callable[..., Params] | None,
    variables: Mapping[str, PyTree] | None,
    trains: Trains | None,
) -> tuple[InitApply, bool]:
    """`init` and `apply` of a model, and whether there may be parameters."""
    if isinstance(model, nnx.Module):
        params = params_filter(trains)
        has_parameters = bool(jax.tree.leaves(nnx.state(model, params)))
        return from_nnx(model, call, params), has_parameters
    # What a linen module has is not known before it has seen an input.
    if isinstance(model, linen.Module):
        return from_linen(model, call, variables), True

    refuse_captured_modules(model)
    return _from_function(model, call, init), init is not None


def _from_function(
    function: Callable[..., PyTree], call: Call, init: Callable[..., Params] | None
) -> InitApply:
    def start(key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]:
        params = {} if init is None else init(key, *inputs)
        return params, {}

    def apply(
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]:
        first = () if init is None else (params,)
        return call(function, first, inputs, train, **call.drawn(key)), state

    return start, apply

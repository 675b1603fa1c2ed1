"""Whether a model is in training mode when it trains, seen from a trace of it.

A model whose dropout and BatchNorm stay in inference mode, and which computes
the same in both modes, was told its mode by no flag that it listens to.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import linen, nnx

from jsplit.core.base import Params, PyTree, SegmentApply, SegmentInit, State
from jsplit.core.checks import warn_user
from jsplit.segments.arguments import MODES
from jsplit.segments.interception import intercepting


class _Moded(NamedTuple):
    """A layer that computes one thing in training and another in inference.

    Attributes:
        flag: the argument, and the attribute, that puts it in inference mode.
        rate: the attribute that is 0 where it does so in neither.
    """

    flag: str
    rate: str | None = None


# A layer of Flax that depends on its mode is added here.
_MODED = {
    nnx.Dropout: _Moded("deterministic", "rate"),
    nnx.BatchNorm: _Moded("use_running_average"),
    nnx.MultiHeadAttention: _Moded("deterministic", "dropout_rate"),
    linen.Dropout: _Moded("deterministic", "rate"),
    linen.BatchNorm: _Moded("use_running_average"),
    linen.MultiHeadDotProductAttention: _Moded("deterministic", "dropout_rate"),
}


_DROPPING = {kind.__name__ for kind, moded in _MODED.items() if moded.rate}


def may_have_modes(model: nnx.Module | linen.Module | Callable[..., PyTree]) -> bool:
    """Whether a trace may find a layer that depends on its mode; of nnx it is seen before."""
    if not isinstance(model, nnx.Module):
        return True
    # A module of linen within one of nnx shows its layers only when it is called.
    kinds = (*_MODED, nnx.bridge.ToNNX)
    return any(isinstance(child, kinds) for _, child in nnx.iter_modules(model))


def warn_of_thawed(model: nnx.Module) -> None:
    """Warn of statistics that look frozen and are trained all the same.

    Args:
        model: whose layers are switched to training mode by jsplit.
    """
    # Where dropout is in inference mode too, or trains beside, it is plain what is
    # meant: the model was evaluated last, or this part is frozen.
    set_to: set[str] = set()
    for _, child in nnx.iter_modules(model):
        set_to |= {n for n in MODES if isinstance(getattr(child, n, None), bool)}
        # Also a norm of the user's own, which listens to the same word.
        if getattr(child, "use_running_average", None) is False:
            return
    if set_to == {"use_running_average"}:
        warn_user(
            "every BatchNorm of the model has `use_running_average=True`, and is put in "
            'training mode in steps. `fixed={"use_running_average": True}` keeps its '
            "statistics frozen; `model.train()` before says that it shall train."
        )


def warning_of_one_mode(
    first: SegmentInit, apply: SegmentApply, untold: Sequence[str]
) -> SegmentInit:
    """An `init` that also looks, the first time, whether the model listens to its mode.

    Args:
        first: the model's `init`.
        apply: of the same model.
        untold: its booleans of which nobody says whether they are the mode.

    Returns:
        The same `init`, which warns if the model has dropout or BatchNorm
        and computes the same in both modes.
    """
    # A list that is emptied: the model is the same at every later call.
    left = [untold]

    def init(key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]:
        params, state = first(key, *inputs)
        if left:
            found = _idle_layers(apply, params, state, key, inputs)
            if found.layers:
                warn_user(_in_words(found, left[0]))
        left.clear()
        return params, state

    return init


class _Idle(NamedTuple):
    """What is idle in training though it should not be.

    Attributes:
        layers: the kinds of layers.
        turned: whether they act in inference instead.
    """

    layers: Sequence[str]
    turned: bool = False


def _in_words(found: _Idle, untold: Sequence[str]) -> str:
    layers = found.layers
    if found.turned:
        return (
            f"the model has {' and '.join(layers)}, which act in inference and not in "
            "training: a flag says what a parameter is in training, and in inference it "
            "is the opposite, so one in `flags` may be the wrong way round."
        )
    said = f'{untold[0]}": True}}`' if untold else '<parameter>": True}`'
    return (
        f"the model has {' and '.join(layers)}, which in training do the same as in "
        "inference: nothing puts them in training mode. If a parameter "
        f'does, `flags={{"{said} (or False) says what it is in training; if this is '
        "meant, `flags={}` says so."
    )


def _idle_layers(
    apply: SegmentApply,
    params: Params,
    state: State,
    key: jax.Array,
    inputs: Sequence[PyTree],
) -> _Idle:
    """The kinds of layers that should act in training, if none does in this model."""
    idle: set[str] = set()
    acting: set[str] = set()

    def note(
        module: nnx.Module | linen.Module,
        args: tuple[PyTree, ...],
        kwargs: Mapping[str, PyTree],
    ) -> None:
        for kind, moded in _MODED.items():
            if isinstance(module, kind) and _has_effect(module, moded):
                is_idle = _in_inference(module, moded.flag, args, kwargs)
                (idle if is_idle else acting).add(kind.__name__)

    def run(train: bool) -> Callable[..., tuple[PyTree, State]]:
        # New each time: JAX caches traces by the function.
        return lambda *given: apply(*given, train=train)

    given = (params, state, key, *inputs)
    try:
        # A lambda that is new each time is part of the key of JAX's caches,
        # so that no `jit` within the model is passed over.
        with intercepting(called=lambda *call: note(*call)):
            jax.eval_shape(run(True), *given)
        # Only where nothing acts is the second mode worth a trace: a model may have a
        # dropout of its own beside a BatchNorm that is frozen. A dropout that never
        # drops beside a BatchNorm that trains is none that anybody freezes.
        if not idle:
            return _Idle([])
        if acting:
            dropouts = {x for x in idle if "Dropout" in x}
            return _Idle([] if acting & _DROPPING else sorted(dropouts))
        with intercepting(called=lambda *call: note(*call)):
            jax.eval_shape(run(False), *given)
        if acting:
            return _Idle(sorted(acting), turned=True)
        shapes = jax.eval_shape(lambda *given: given, *given)
        programs = {_text(run(train), shapes) for train in (True, False)}
    except Exception:
        # What is wrong with the model is said where it runs, in the words of
        # whoever runs it.
        return _Idle([])
    return _Idle(sorted(idle) if len(programs) == 1 else [])


def _has_effect(module: nnx.Module | linen.Module, moded: _Moded) -> bool:
    return moded.rate is None or getattr(module, moded.rate) != 0


def _in_inference(
    module: nnx.Module | linen.Module,
    flag: str,
    args: tuple[PyTree, ...],
    kwargs: Mapping[str, PyTree],
) -> bool:
    """Whether a layer is called in inference mode: as it is told, or else as it is set."""
    signature = inspect.signature(type(module).__call__)
    told = signature.bind(module, *args, **kwargs).arguments.get(flag)
    told = getattr(module, flag, None) if told is None else told
    # One that is traced may be either, so the layer may act.
    return isinstance(told, bool | np.bool_) and bool(told)


def _text(run: Callable[..., PyTree], shapes: Sequence[PyTree]) -> str:
    """A program as text, the same for every trace of it."""
    # Functions in it are printed with the place where they lie, which differs
    # from trace to trace.
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(run)(*shapes)))

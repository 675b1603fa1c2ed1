"""What a party minimises: a `Loss` is a term of the objective, a `Penalty` one of its own.

Each is a function of values that the party has, and says how the numbers of
examples become one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from math import isfinite
from numbers import Real

import jax

from jsplit.core.checks import shown
from jsplit.core.strength import Strength
from jsplit.topology.names import as_names, check_names


@dataclass(frozen=True)
class Loss:
    """A term of the objective, computed at one party.

    The objective is the sum of `weight` times the mean of each loss, or with
    `per` times its sum over the examples, divided by that constant.

    Attributes:
        name: Name of the loss.
        fn: `fn(*inputs)`, a scalar or one number per example, [batch]; its
            mean counts, each example as often as its weight says. Or one per
            entry of an example, as a token, [batch, time], where all inputs
            have that axis: the mean is of all entries, each as often as its
            own weight, or that of its example, says. Floating
            inputs narrower than float32 arrive as float32. If it has a
            parameter `weight` beside its inputs, without a default or with
            `None`, it is called as `fn(*inputs, weight=weight)` with the
            weights of the examples, [batch] of mean 1, or `None` if all
            count alike, and must return one number, in which it has weighted
            the examples itself. So may a loss that is no mean of examples,
            as a correlation, be one of weighted examples.
        party: Who computes it.
        inputs: Names of fields and values; also `<node>.params` and
            `<node>.state` of the party's own nodes (the state is the one
            after the step's forward pass, with all that the segment sowed).
        weight: Factor in the objective, or a `jsplit.Strength`, which can
            be set between steps; the number 0: it is computed but not
            trained for. Over several batches it is the mean over their
            examples; what is no mean, as an AUC, is a `Metric`.
        local: Whether the loss may read only what the party already has, so
            that it makes nothing cross. See `Penalty`.
        per: A constant by which the sum over the examples is divided, each
            times its weight as it is given, in the place of the mean; the
            number of examples that a batch is expected to have, where that
            varies and one example may not change how much the others
            count, as in private training. `evaluate` gives the mean.

    Raises:
        ValueError: If `fn` is no function, `weight` no number, `per` not
            positive and finite, `inputs` is empty, or a name is not a string.

    Example:
        >>> import jsplit, optax
        >>> entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> loss = jsplit.Loss("loss", entropy, "server", ["logits", "label"])
        >>> loss.reads, loss.weight
        (('logits', 'label'), 1.0)
    """

    name: str
    fn: Callable[..., jax.Array]
    party: str
    inputs: str | Sequence[str]
    weight: float | Strength = 1.0
    local: bool = False
    per: float | None = None

    def __post_init__(self) -> None:
        check_names("loss", self.name, self.party)
        if not callable(self.fn):
            got = type(self.fn).__name__
            raise ValueError(f"loss `{self.name}`: `fn` must be a function, got {got}.")
        # `Real` and not `float`: NumPy's scalars and Python's integers are weights too.
        if not isinstance(self.weight, (Real, Strength)):
            raise ValueError(
                f"loss `{self.name}`: `weight` must be a number, got {shown(self.weight)}."
            )
        if self.per is not None and not _is_positive(self.per):
            raise ValueError(
                f"loss `{self.name}`: `per` must be positive and finite, got "
                f"{shown(self.per)}."
            )
        object.__setattr__(self, "inputs", as_names(f"loss `{self.name}`", self.inputs))
        if not self.reads:
            raise ValueError(
                f"loss `{self.name}`: `inputs` is empty, so it depends on nothing."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of all inputs, in the order in which `fn` takes them.

        Returns:
            A tuple of names; a name may come twice.

        Example:
            >>> import jsplit
            >>> jsplit.Loss("size", abs, "server", "logits").reads
            ('logits',)
        """
        return tuple(self.inputs)

    @property
    def takes_weight(self) -> bool:
        """Whether `fn` is given how much each example counts.

        Returns:
            True if it has a parameter `weight` that none of the inputs is
            and that has no default, or `None`. One with another default is
            a number of the function's own, and is left alone.

        Example:
            >>> import jax.numpy as jnp, jsplit
            >>> def spread(h, weight):
            ...     return jnp.var(h if weight is None else h * weight[:, None])
            >>> jsplit.Loss("spread", spread, "server", "h").takes_weight
            True
            >>> jsplit.Loss("spread", jnp.var, "server", "h").takes_weight
            False
        """
        return _takes_weight(self.fn, len(self.reads))

    @property
    def differentiable_inputs(self) -> tuple[str, ...]:
        """The inputs that may get a cotangent from this loss, each once.

        Returns:
            The names in `reads`; none for a metric, whose weight is 0.

        Example:
            >>> import jsplit
            >>> jsplit.Loss("size", abs, "server", "h").differentiable_inputs
            ('h',)
            >>> jsplit.Loss("size", abs, "server", "h", 0).differentiable_inputs
            ()
        """
        return tuple(dict.fromkeys(self.reads)) if self.weight else ()

    pulls = differentiable_inputs  # the name until 0.1, kept for those who use it


# A function and no subclass, so that all that reads a topology knows two records and
# not three; named like them, since users write the three side by side.
def Penalty(
    name: str,
    fn: Callable[..., jax.Array],
    party: str,
    inputs: str | Sequence[str],
    weight: float | Strength = 1.0,
    *,
    per: float | None = None,
) -> Loss:
    """A loss that one party adds on what it already has, so that nothing crosses for it.

    It reads the party's own parameters, activations and fields. Three uses:
    weight decay, `Penalty("decay", l2, "hospital", ["smashed.params"],
    1e-4)`; a regulariser sown inside a module, `Penalty("sown", total,
    "hospital", ["smashed.state"])`; NoPeek, `Penalty("nopeek", correlation,
    "hospital", ["image", "smashed"])`.

    Args:
        name: Name of the penalty.
        fn: `fn(*inputs)`, a scalar or one number per example, [batch]; or
            `fn(*inputs, weight=weight)`, one number, as for `Loss`.
        party: Who computes it.
        inputs: Names of the party's own fields and values, or
            `<node>.params` and `<node>.state` of its own nodes.
        weight: Factor in the objective, or a `jsplit.Strength`.
        per: As for `Loss`.

    Returns:
        A `Loss` whose `local` is true.

    Raises:
        ValueError: As for `Loss`; `Topology` raises where the penalty reads
            something that its party does not have.

    References:
        Vepakomma et al., `NoPeek: information leakage reduction to share
        activations in distributed deep learning
        <https://arxiv.org/abs/2008.09161>`_, 2020.

    Example:
        >>> import jsplit, optax
        >>> l2 = lambda params: optax.tree.norm(params, squared=True)
        >>> jsplit.Penalty("decay", l2, "hospital", "smashed.params", 1e-4).local
        True
    """
    return Loss(name, fn, party, inputs, weight, local=True, per=per)


def _is_positive(per: object) -> bool:
    """Whether something is a number by which a sum may be divided."""
    if isinstance(per, bool) or not isinstance(per, Real):
        return False
    return isfinite(per) and float(per) > 0


def _takes_weight(fn: Callable[..., jax.Array], inputs: int) -> bool:
    """Whether a function of so many inputs has a parameter `weight` beside them."""
    try:
        found = signature(fn)
        own = found.parameters.get("weight")
        if own is None or "weight" in found.bind_partial(*range(inputs)).arguments:
            return False
    # Functions of C have no signature, and what does not take its inputs at all is
    # refused where it is called, by name.
    except (TypeError, ValueError):
        return False
    if own.kind not in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
        return False
    return own.default is Parameter.empty or own.default is None

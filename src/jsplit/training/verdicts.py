"""A step or an evaluation that gives what is not finite is refused, in words that name it.

What is looked at, and the flags, are in `nonfinite`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np

from jsplit.core.finite import Finite, Watched
from jsplit.core.typed_jax import is_traced
from jsplit.training.config import Config
from jsplit.training.executor import StoreLike
from jsplit.training.nonfinite import flags_name


class NotFinite(ValueError):
    """A step was refused: it would leave values that are not finite.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> top = jsplit.segment(
        ...     lambda w, x: w * x, init=lambda key, x: jnp.ones(3), inputs="x", name="y"
        ... )
        >>> loss = jsplit.Loss("loss", lambda y: y.sum(-1), "lab", ["y"])
        >>> topology = jsplit.Topology([jsplit.Node("y", top, "lab"), loss], {"lab": ["x"]})
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> state = trainer.init(0, {"x": jnp.ones((2, 3))})
        >>> try:
        ...     trainer.step(state, {"x": jnp.full((2, 3), jnp.inf)})
        ... except jsplit.NotFinite as error:
        ...     print(str(error).partition(":")[0])
        step 1 leaves what is not finite or out of range
    """


def check_donation(config: Config) -> None:
    """Refuse a trainer whose refused step could not give the state back.

    Raises:
        ValueError: saying what to choose.
    """
    if config.donate and config.nonfinite == "refuse":
        raise ValueError(
            '`donate=True` needs `nonfinite="skip"` or `"allow"`: a step that is refused '
            "has used up the state that it was given, and gives none."
        )


class Verdict:
    """What becomes of a step or an evaluation, from the flags that its parties leave.

    Args:
        policy: "refuse", "skip" or "allow".
        names: by party, what they are about.
    """

    def __init__(self, policy: str, names: Watched):
        self.policy, self.names = policy, names
        self.flags = [flags_name(party) for party, _ in names]

    @classmethod
    def of_party(
        cls, config: Config, party: str, names: Callable[[Config], Watched]
    ) -> Self:
        """That of one party, which on its own machine has flags of its own alone."""
        own = tuple(x for x in names(config) if x[0] == party)
        return cls(config.nonfinite, own)

    def finite(self, store: StoreLike) -> Finite | None:
        """The flags of a step, with the names of what they are about."""
        if self.policy == "allow":
            return None
        flags = {}
        # A plain loop: this runs in every step, and a comprehension is a call.
        for name in self.flags:
            flags[name.party] = store[name]
        return Finite(flags, self.names)

    def __call__(
        self, finite: Finite | None, step: Callable[[], int] | None = None
    ) -> None:
        """Refuse what is not finite, if that is the policy.

        Args:
            finite: the flags of a step or an evaluation.
            step: gives the number of the step, counted from 1; `None`: it is an
                evaluation.

        Raises:
            NotFinite: naming the step, the values and the parties.
        """
        if self.policy != "refuse" or finite is None:
            return
        for flags in finite.flags.values():
            # Within a program of the user's nothing can be raised: they are in `info`.
            if is_traced(flags):
                return
            if not np.asarray(flags).all():
                raise NotFinite(
                    refusal(f"step {step()}", finite) if step else unmeasured(finite)
                )


def refuse_round(policy: str, finite: Finite | None) -> None:
    """Refuse a round, or several, in which a step leaves what is not finite.

    Args:
        policy: "refuse", "skip" or "allow".
        finite: the flags of all steps, with the first that fails.

    Raises:
        NotFinite: naming the step, the values and the parties.
    """
    if policy != "refuse" or finite is None or is_traced(finite.step):
        return
    steps = np.atleast_1d(np.asarray(finite.step))
    if steps.any():
        raise NotFinite(refusal(f"step {steps[steps > 0].min()}", finite))


def refuse_end(finite: Finite | None) -> None:
    """Refuse what a round leaves though its steps do not: in an average, or a server's step.

    Raises:
        NotFinite: naming the values and the parties.
    """
    if finite is not None:
        raise NotFinite(refusal("what the server makes of all clients", finite))


def refuse_evaluation(policy: str, finite: Finite | None) -> None:
    """Refuse an evaluation of many batches by their flags together, as `refuse_round`.

    Raises:
        NotFinite: naming the values and the parties.
    """
    if policy != "refuse" or finite is None:
        return
    if not any(map(is_traced, finite.flags.values())) and finite.nonfinite():
        raise NotFinite(unmeasured(finite))


def refusal(when: str, finite: Finite) -> str:
    """The words of a refusal."""
    return (
        f"{when} leaves what is not finite or out of range: "
        f"{', '.join(finite.nonfinite())}. The state in hand is that before it; "
        'nonfinite="skip" leaves such steps out, "allow" lets them pass.'
    )


def unmeasured(finite: Finite) -> str:
    """The words of a refusal to evaluate."""
    return (
        f"the evaluation gives what is not finite or out of range: "
        f"{', '.join(finite.nonfinite())}. An example of weight 0 is left out; "
        'nonfinite="allow" lets all pass.'
    )

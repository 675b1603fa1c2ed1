"""What a step tells that is recorded: records by message, by party and node, by name.

`recording` reads them from where a step leaves its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax

from jsplit.core.base import Info, PyTree
from jsplit.training.step_numbers import Norms, whole_norm


class Passage(NamedTuple):
    """Which message it is: the key of `Recorded.crossed`, and equal to a plain tuple.

    Attributes:
        kind: "activation", "cotangent", or "scalar" (numbers of which all parties
            need the sum).
        name: the value, or what the numbers are called.
        sender: the party that sent it.
        receiver: the party that it went to.

    Example:
        >>> import jsplit
        >>> up = jsplit.Passage("activation", "smashed", "client", "server")
        >>> up == ("activation", "smashed", "client", "server")
        True
        >>> print(up)
        activation smashed: client -> server
    """

    kind: str
    name: str
    sender: str
    receiver: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.sender} -> {self.receiver}"


class Crossed(NamedTuple):
    """One message as it crossed.

    Attributes:
        payload: what was sent, as its link encoded it. With several micro-batches each
            was a message of its own, and they lie along a first axis,
            [microbatches, ...].
        value: what the receiver decoded, [batch, ...], with `None` for an array that
            does not cross because nobody reads it there.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> sent = jsplit.Crossed(jnp.ones((4, 3), "bfloat16"), jnp.ones((4, 3)))
        >>> sent.payload.nbytes, sent.value.nbytes
        (24, 48)
    """

    payload: PyTree
    value: PyTree


class Recorded(NamedTuple):
    """What a step of `jsplit.record` tells; a pytree.

    Attributes:
        info: what the step of the plain trainer tells.
        crossed: by message, a `Passage`, what crossed.
        gradients: by party and node, the gradient that the party's optimizer was given;
            empty unless asked for.
        norms: by party with parameters, the `Norms` of its gradients and updates; empty
            unless asked for.
        hyperparams: by party with parameters, the hyperparameters that its optimizer
            used, by name; empty unless asked for, and for a party whose optimizer
            `optax.inject_hyperparams` did not make.
        seconds: by party, how long its programs ran; empty unless asked for.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> info = jsplit.Info(jnp.float32(1), {"loss": jnp.float32(1)})
        >>> jsplit.Recorded(info, {}).gradients
        {}
    """

    info: Info
    crossed: Mapping[Passage, Crossed]
    gradients: Mapping[str, Mapping[str, PyTree]] = {}
    norms: Mapping[str, Norms] = {}
    hyperparams: Mapping[str, Mapping[str, jax.Array]] = {}
    seconds: Mapping[str, float] = {}

    @property
    def gradient_norm(self) -> jax.Array:
        """The norm of the gradient of all parties' parameters, as of the whole model.

        Returns:
            float [], or with the axes of a loop over steps.

        Raises:
            ValueError: if no norms were asked for.

        Example:
            >>> import jax.numpy as jnp, jsplit
            >>> three, four = (
            ...     jsplit.Norms({"h": jnp.float32(x)}, {"h": jnp.float32(0)}) for x in (3, 4)
            ... )
            >>> info = jsplit.Info(jnp.float32(1), {"loss": jnp.float32(1)})
            >>> both = {"client": three, "server": four}
            >>> float(jsplit.Recorded(info, {}, norms=both).gradient_norm)
            5.0
        """
        return whole_norm({p: x.gradient for p, x in self._asked_norms().items()})

    @property
    def update_norm(self) -> jax.Array:
        """The norm of what was added to all parties' parameters together.

        Returns:
            float [], or with the axes of a loop over steps.

        Raises:
            ValueError: if no norms were asked for.

        Example:
            >>> import jax.numpy as jnp, jsplit
            >>> norms = jsplit.Norms({"h": jnp.float32(3)}, {"h": jnp.float32(0.5)})
            >>> info = jsplit.Info(jnp.float32(1), {"loss": jnp.float32(1)})
            >>> float(jsplit.Recorded(info, {}, norms={"client": norms}).update_norm)
            0.5
        """
        return whole_norm({p: x.update for p, x in self._asked_norms().items()})

    def _asked_norms(self) -> Mapping[str, Norms]:
        # Where nobody looked, 0 would be a norm that was not measured.
        if not self.norms:
            raise ValueError(
                "there are no norms: ask for them, `jsplit.record(trainer, norms=True)`."
            )
        return self.norms

"""A way to train: four functions, their arguments and what they give.

Interpreters make a `Trainer`, users call it. What a function of it
must do, whoever makes it, is said at its Protocol here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
from jax.typing import ArrayLike

from jsplit.core.base import Fields, Info, PyTree, TrainState


# The docstrings of the four `__call__` are given to the functions
# that trainers hold, so that `help(trainer.step)` says something:
# closures have no place of their own for it.
class InitFn(Protocol):
    """The form of `trainer.init`; see `__call__`."""

    def __call__(
        self,
        key: jax.Array | int,
        batch: Fields,
        *,
        secrets: Mapping[str, jax.Array] | None = None,
    ) -> TrainState:
        """Make the first state of all parties.

        Parameters are those that the segments' own `init` gives;
        optimizers and links start from them. The same key gives the
        same state in every interpreter, but for the secret keys of
        parties that send through a link with `secret=True`: these come
        from the system.

        Args:
            key: a PRNG key, or an integer seed of one.
            batch: every field that the topology reads, by name, each
                an array or pytree [batch, ...]. Only shapes and
                dtypes matter.
            secrets: by party, a secret key in the place of one from the
                system, as for `jsplit.with_secrets`; needed within
                `jax.jit` and `vmap`.

        Returns:
            A `TrainState` at step 0.

        Raises:
            ValueError: if `key` is neither, if a field is lacking or
                unknown, if a segment does not fit what it reads, or if
                a secret would be drawn while a program is traced.

        Example:
            >>> import jax.numpy as jnp, jsplit, optax
            >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
            >>> server = jsplit.segment(
            ...     lambda w, h: h @ w, init=lambda key, h: jnp.zeros(3), inputs=["h"]
            ... )
            >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
            >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
            >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
            >>> state = trainer.init(0, batch)
            >>> int(state.parties["server"].step)
            0
        """
        ...


class StepFn(Protocol):
    """The form of `trainer.step`; see `__call__`."""

    def __call__(
        self, state: TrainState, batch: Fields, weight: ArrayLike | None = None
    ) -> tuple[TrainState, Info]:
        """Train all parties on one batch.

        Every party computes its segments, the losses are
        differentiated, and each party's optimizer updates its own
        parameters.

        The state that goes in stays valid, unless the trainer was made
        with `donate=True`: then go on with the one that comes out.

        Args:
            state: of all parties, from `init` or the step before.
            batch: every field that the topology reads, by name, each
                an array or pytree [batch, ...].
            weight: how much each example counts in the mean that a
                loss takes, [batch]; 0 leaves it out. Or each of its
                entries, as tokens, [batch, time]: then a loss gives
                one number for each of these, and its mean over the
                batch is theirs, whatever micro-batches they are in.
                By default all count alike.

        Returns:
            The new state, and the `Info` of this step: losses before
            the update.

        Raises:
            ValueError: if a field is lacking or unknown, or batch
                axes differ.
            NotFinite: if it leaves what is not finite, and the trainer
                refuses that.

        Example:
            >>> import jax.numpy as jnp, jsplit, optax
            >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
            >>> server = jsplit.segment(
            ...     lambda w, h: h @ w, init=lambda key, h: jnp.zeros(3), inputs=["h"]
            ... )
            >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
            >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
            >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
            >>> state, info = trainer.step(trainer.init(0, batch), batch)
            >>> int(state.parties["server"].step), float(info.loss)
            (1, 1.0)
        """
        ...


class EvaluateFn(Protocol):
    """The form of `trainer.evaluate`; see `__call__`."""

    def __call__(
        self,
        state: TrainState,
        batch: Fields | Iterable[Fields | tuple[Fields, ArrayLike]],
        weight: ArrayLike | None = None,
        *,
        noise: jax.Array | None = None,
    ) -> Info:
        """Compute losses and metrics in inference mode; changes nothing.

        Args:
            state: of all parties; it is not used up.
            batch: every field that the topology reads, by name, each
                an array or pytree [batch, ...]; or a set, as an
                iterable of such batches, of any sizes, or of pairs
                (batch, weight).
            weight: how much each example of the one batch counts in
                the mean that a loss takes, [batch], or each of its
                entries, [batch, time]; 0 leaves it out. By default
                all count alike.
            noise: a key of this call, for links with `secret=True`; by
                default the system gives one, so that every call draws
                anew. It is needed within `jax.jit`, `vmap` and `scan`;
                whoever gives one key twice has the same noise twice.

        Returns:
            The `Info` of the batch, or of the set: losses are means
            over all its examples, and each `Metric` is of all of them.

        Raises:
            ValueError: if a field is lacking or unknown, batch axes
                differ, a set holds no batch, or batches with more
                and fewer entries in a loss that is of these and has
                no weights of them, a metric cannot be computed, or
                `noise` is missing.
            NotFinite: if a loss is not finite or a class number out of
                range, and the trainer refuses that.

        Example:
            >>> import jax.numpy as jnp, jsplit, optax
            >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
            >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
            >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
            >>> trainer = jsplit.fused(topology, {})
            >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
            >>> state = trainer.init(0, batch)
            >>> float(trainer.evaluate(state, batch).loss)
            25.0
            >>> batches = [batch, {"x": jnp.zeros((1, 3)), "label": jnp.zeros(1)}]
            >>> float(trainer.evaluate(state, batches).loss)
            20.0
        """
        ...


class PredictFn(Protocol):
    """The form of `trainer.predict`; see `__call__`."""

    def __call__(
        self,
        state: TrainState,
        fields: Fields,
        at: str | Sequence[str] | None = None,
        *,
        noise: jax.Array | None = None,
    ) -> Mapping[str, PyTree]:
        """Compute what the topology gives in inference mode; changes nothing.

        Args:
            state: of all parties; it is not used up.
            fields: the fields that the nodes read, by name, each an
                array or pytree [batch, ...]; labels are not needed.
            at: names of values that cross, or of outputs, to have these
                instead; no more is computed than they need.
            noise: a key of this call, as for `evaluate`.

        Returns:
            By node, the output of each node that no other node reads,
            [batch, ...]. With `at`, by name: of what crosses the value
            as its receiver decodes it, `None` for an array of it that
            does not cross; by receiver where there are several.

        Raises:
            ValueError: if a field is lacking or unknown, batch axes
                differ, `at` names what does not cross, or `noise` is
                missing.

        Example:
            >>> import jax.numpy as jnp, jsplit, optax
            >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
            >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"], name="sum")
            >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
            >>> trainer = jsplit.fused(topology, {})
            >>> batch = {"x": jnp.ones((4, 3)), "label": jnp.ones(4)}
            >>> state = trainer.init(0, batch)
            >>> {n: x.shape for n, x in trainer.predict(state, {"x": batch["x"]}).items()}
            {'sum': (4,)}
            >>> trainer.predict(state, {"x": batch["x"]}, at="smashed")["smashed"].shape
            (4, 3)
        """
        ...


# Four functions and no object: a way to train has no memory of its
# own, so one function can be replaced (`trainer._replace(step=...)`)
# and any of them jitted.
class Trainer(NamedTuple):
    """A way to train one topology.

    All interpreters have this signature.

    Attributes:
        init: `init(key, batch) -> state` makes the first state, see
            `InitFn`.
        step: `step(state, batch, weight=None) -> (state, info)`
            trains on one batch, see `StepFn`. The state that goes in
            stays valid, unless the trainer donates it.
        evaluate: `evaluate(state, batch, weight=None) -> info`
            computes losses and metrics of a batch, or of several, in
            inference mode, see `EvaluateFn`.
        predict: `predict(state, fields, at=None) -> {node: output}`
            computes the outputs of the nodes that no other node reads,
            or the values `at` a cut, see `PredictFn`.
        config: what the trainer was asked for: topology, optimizers,
            links and modes.
        remake: `remake(config) -> trainer`, the interpreter that made
            it, for another configuration; `jsplit.record` asks for it.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> client = jsplit.segment(lambda x: 2 * x**2, inputs=["x"])
        >>> server = jsplit.segment(lambda h: h.sum(-1), inputs=["h"])
        >>> topology = jsplit.vanilla(client, server, loss=lambda o, y: (o - y) ** 2)
        >>> trainer = jsplit.fused(topology, {})
        >>> trainer._fields
        ('init', 'step', 'evaluate', 'predict', 'config', 'remake')
    """

    init: InitFn
    step: StepFn
    evaluate: EvaluateFn
    predict: PredictFn
    # An object to whoever only trains: its type belongs to the room
    # that configures, which stands above this one.
    config: object = None
    remake: Callable[..., Trainer] | None = None

    def __repr__(self) -> str:
        # The functions are closures and the config holds whole optimizers: their
        # own texts would fill a screen.
        parties = getattr(getattr(self.config, "topology", None), "parties", ())
        return f"Trainer({', '.join(parties)})"

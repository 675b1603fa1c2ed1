"""The records that everything in jsplit takes and returns.

A `Segment` computes, a `Link` carries, a `PartyState` is what a party
learns. A record that several rooms share belongs here; what computes with
one does not. Of ours this file knows the flags that a record holds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import jax
import numpy as np

from jsplit.core.cache import Cache as Cache
from jsplit.core.carried import Carried as Carried
from jsplit.core.finite import Finite
from jsplit.core.gradient_noise import GradientNoise
from jsplit.core.handed import Handed
from jsplit.core.hidden import HiddenDict, text_of_record
from jsplit.core.link import Link as Link
from jsplit.core.link import Receiver as Receiver
from jsplit.core.pytrees import Fields as Fields
from jsplit.core.pytrees import Params as Params
from jsplit.core.pytrees import PyTree as PyTree
from jsplit.core.pytrees import State as State
from jsplit.core.tied import Tied as Tied


class SegmentInit(Protocol):
    """Make a segment's first parameters and state.

    Called as `init(key, *inputs) -> (params, state)`. Only the shapes and
    dtypes of `inputs` matter.
    """

    # Positional only: the inputs of a segment have names that are the
    # user's, and any of them may be called `key`.
    def __call__(self, key: jax.Array, /, *inputs: PyTree) -> tuple[Params, State]: ...


class SegmentApply(Protocol):
    """Compute a segment's output, and the state that it leaves; a pure function.

    Called as `apply(params, state, key, *inputs, train=True) -> (output,
    new_state)`.
    """

    def __call__(
        self,
        params: Params,
        state: State,
        key: jax.Array | None,
        /,
        *inputs: PyTree,
        train: bool = True,
    ) -> tuple[PyTree, State]: ...


# Not a named tuple, which JAX would take for a pytree. This is static: it is hashed as part
# of the key under which compiled programs are found again.
@dataclass(frozen=True)
class Segment:
    """A pure function with parameters of its own: the part of a network that one party runs.

    `jsplit.segment` makes one from a Flax module or a function,
    `jsplit.split` makes several from a whole model, and it can be written
    by hand. Nothing that uses a segment can tell which.

    Attributes:
        init: `init(key, *inputs) -> (params, state)`.
        apply: `apply(params, state, key, *inputs, train=True) -> (output,
            new_state)`. `state` holds what training changes without a
            gradient (BatchNorm statistics and the like). `key` feeds
            dropout and may be `None` where `train` is `False`.
        inputs: names of the positional inputs, if known. A `Node` reads the
            values of these names unless told otherwise.
        name: name of the value that the segment produces, if known.
        trainable: whether there may be parameters. A party that owns only
            segments without any needs no optimizer.
        shares_key: `False`: in a topology the segment gets a key of its
            own, so that two segments never draw the same dropout mask.
            `True`: it gets the step's key as it is, as all slices of one
            whole model must, for their masks to be the whole model's.
        unread: paths in the output at which there is `None`, because the rest of the
            model that the segment was sliced from does not read what was there.
        noise: what its party adds to the gradient of its parameters in every
            step, from its own secret key, as in private training.
        tied: weights that other segments of the same `split` read too; the party
            that has this one has them all.
        trains: of its parameters, which are trained, by path; all others are
            frozen. `None`: all of a floating dtype are trained.
        moves: of its state, which leaves `apply` may change, by path; `None`: any.
        carried: what goes with its output, since the rest of the model that the segment
            was sliced from reads it too.
        cache: how it computes a sequence piece by piece; see `jsplit.with_cache`.
        handed: what it reads that its party may have made itself, and came back.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> def init(key, x):
        ...     return {"scale": jnp.ones(x.shape[1:])}, {}
        >>> def apply(params, state, key, x, train=True):
        ...     return params["scale"] * x, state
        >>> scale = jsplit.Segment(init, apply, inputs=("x",), name="h")
        >>> scale
        Segment(x -> h)
        >>> params, state = scale.init(jax.random.key(0), jnp.zeros((4, 3)))
        >>> output, state = scale.apply(params, state, None, jnp.zeros((4, 3)))
        >>> output.shape
        (4, 3)
    """

    init: SegmentInit
    apply: SegmentApply
    inputs: tuple[str, ...] | None = None
    name: str | None = None
    trainable: bool = True
    shares_key: bool = False
    unread: tuple[str, ...] = ()
    noise: GradientNoise | None = None
    tied: tuple[Tied, ...] = ()
    trains: Callable[[tuple[Hashable, ...]], bool] | None = None
    moves: Callable[[tuple[Hashable, ...]], bool] | None = None
    carried: tuple[Carried, ...] = ()
    cache: Cache | None = None
    handed: tuple[Handed, ...] = ()

    def __repr__(self) -> str:
        inputs, name = ", ".join(self.inputs or ("...",)), self.name or "..."
        without = f" without {', '.join(self.unread)}" if self.unread else ""
        names = ", ".join(c.name for c in self.carried)
        carrying = f" carrying {names}" if names else ""
        return f"Segment({inputs} -> {name}{carrying}{without})"


class Message(NamedTuple):
    """One crossing as it happened.

    Attributes:
        name: the value, as the topology names it.
        kind: `"activation"` (forward), `"cotangent"` (back) or `"scalar"` (a number
            of each party, as a norm).
        sender: the party that sent it.
        receiver: the party that it went to.
        shape: of what crossed, after its link encoded it; a tuple of shapes
            where that is several arrays.
        dtype: of what crossed, after its link encoded it; a tuple of dtypes
            where that is several arrays.
        bytes: size of what crossed.
        frame: bytes of the frame around it on a network: 96, and for each
            array 8 and 8 for each axis. In one process nothing adds them.

    Example:
        >>> import numpy as np, jsplit
        >>> message = jsplit.Message(
        ...     "h", "activation", "client", "server", (4, 3), np.dtype("float32"), 48, 120
        ... )
        >>> message.bytes
        48
        >>> print(message)
        activation h: client -> server, float32[4, 3], 48 bytes
    """

    name: str
    kind: str
    sender: str
    receiver: str
    # Of what crossed, not of the value: a link may make several arrays of
    # one, or one of several, so neither has a fixed form.
    shape: tuple[int, ...] | tuple[tuple[int, ...], ...]
    dtype: np.dtype | tuple[np.dtype, ...]
    bytes: int
    frame: int

    def __str__(self) -> str:
        # Of several arrays both are tuples.
        if isinstance(self.dtype, tuple):
            both = zip(
                self.dtype, cast(tuple[tuple[int, ...], ...], self.shape), strict=True
            )
        else:
            both = [(self.dtype, self.shape)]
        arrays = " and ".join(f"{dtype}{[*shape]}" for dtype, shape in both)
        way = f"{self.sender} -> {self.receiver}"
        return f"{self.kind} {self.name}: {way}, {arrays}, {self.bytes} bytes"


class PartyState(NamedTuple):
    """All that one party carries from step to step, and all that its checkpoint holds.

    Attributes:
        params: parameters, by node.
        state: BatchNorm statistics and other mutable collections, by node.
        optimizer: state of the party's one optimizer, over all its
            `params`.
        links: memory of the links that this party sends through, by
            crossing; and a dynamic loss scale, as `loss scale`.
        key: the seed key on which the parties agreed; randomness is a
            function of (key, step).
        step: number of steps taken, int32 [].
        secret: a key that only this party knows, of which it draws what
            nobody else may compute; `None` at a party that sends through no
            link with `secret=True`. It is drawn from the system, crosses to
            nobody, and is not in the text of a state, nor in that of its
            `_asdict()`. What prints the arrays of a state one by one, as
            `print(jax.tree.leaves(state))` or `print([*state])`, prints it.
        strengths: numbers that the party's losses and links read, by the name
            of their `jsplit.Strength`, float32 [] each. Training changes
            none; `jsplit.set_hyperparams` does.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> params = {"h": {"weight": jnp.ones(3)}}
        >>> own = jsplit.PartyState(
        ...     params, {"h": {}}, (), {}, jax.random.key(0), jnp.int32(0)
        ... )
        >>> own._replace(step=own.step + 1).step.dtype
        dtype('int32')
    """

    params: Mapping[str, Params]
    state: Mapping[str, State]
    optimizer: PyTree
    links: Mapping[str, State]
    # Never split from step to step: a key for step n is folded from this
    # one and n, so any step can be replayed from a checkpoint without those
    # before it.
    key: jax.Array
    # An array and not an int: a number that is part of the program would
    # compile every step anew.
    step: jax.Array
    # With defaults, so that states made before there were these still load.
    secret: jax.Array | None = None
    strengths: Mapping[str, jax.Array] = {}

    def __repr__(self) -> str:
        return text_of_record("PartyState", self._asdict())


def _as_hidden(self: PartyState) -> HiddenDict:
    """Return the fields by name, in a dictionary whose text hides the secret too."""
    return HiddenDict(zip(self._fields, self, strict=True))


# A named tuple takes no method of this name in its class, and to a checker none after it.
setattr(PartyState, "_asdict", _as_hidden)  # noqa: B010


class TrainState(NamedTuple):
    """The state of every party.

    In one process the states of all parties lie side by side. On its own
    machine a party has only its own.

    Attributes:
        parties: the state of each party, by its name.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> own = jsplit.PartyState({}, {}, (), {}, jax.random.key(0), jnp.int32(0))
        >>> state = jsplit.TrainState({"client": own, "server": own})
        >>> list(state.parties)
        ['client', 'server']
    """

    parties: Mapping[str, PartyState]


class Info(NamedTuple):
    """What a step has to tell beside the new state.

    Attributes:
        loss: sum of all losses, each times its weight, float [].
        losses: every loss and metric before its weight, by name, float []
            each.
        messages: what crossed, in order; empty where the interpreter sends
            nothing.
        metrics: of `evaluate`, every `jsplit.Metric` by name, a number of
            Python's own, over all examples; a step has none.
        finite: whether what a step leaves is finite, value by value; `None`
            where nobody looks (`nonfinite="allow"`).

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> info = jsplit.Info(jnp.float32(1), {"loss": jnp.float32(1)})
        >>> info.messages
        ()
    """

    loss: jax.Array
    losses: Mapping[str, jax.Array]
    # Only `messages` fills it: inside the one program of `fused` there is
    # no moment at which something crosses.
    messages: tuple[Message, ...] = ()
    # Not among the losses, whose weighted sum is `loss` and which JAX traces.
    metrics: Mapping[str, float | int | bool] = {}
    finite: Finite | None = None

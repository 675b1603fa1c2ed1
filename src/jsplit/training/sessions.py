"""A session: a trained topology computes one sequence piece by piece, in one process.

Each party has a cache of its own, and one compiled function for each turn and number of
positions. Caches never cross, and are donated to the call that replaces them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from weakref import WeakKeyDictionary

import jax
import numpy as np

from jsplit.core.base import Fields, PyTree, TrainState
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.closing import Closing
from jsplit.core.donation import call_on_state, refuse_used_up
from jsplit.core.recent import Recent
from jsplit.core.secret_keys import words_of_call
from jsplit.core.trainer import PredictFn, Trainer
from jsplit.core.trees import as_arrays
from jsplit.jaxprs.compiling import jit
from jsplit.topology.graph import Topology
from jsplit.training.cached_walk import cache_inputs, call_walk, first_caches
from jsplit.training.call_checks import check_call, check_first, check_same, run_or_name
from jsplit.training.config import Config
from jsplit.training.configure import check_batch, fields_of
from jsplit.training.crossing import secret_senders
from jsplit.training.executor import CompiledWalk, InProcess, jitted
from jsplit.training.kinds import Kind
from jsplit.training.store import layout_of, load
from jsplit.training.walk import Name, Walk


def session(
    trainer: Trainer, state: TrainState, *, batch: int = 1, length: int
) -> Session:
    """Begin a sequence, which is computed piece by piece with a cache at each party.

    The first call is given the prompt, further calls what comes next; each gives the
    output at the positions that it was given, equal to `predict` on the whole sequence.
    Segments have a cache by `jsplit.with_cache`; one without must compute every
    position by itself. Both are looked at in the first call of a trainer's sessions.

    Args:
        trainer: what trained the state.
        state: of all parties; it stays as it is.
        batch: how many sequences go side by side.
        length: the most positions that they will have; the caches are so long.

    Returns:
        A `Session`.

    Raises:
        ValueError: if no segment has a cache, or an argument does not fit.

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> zeros = lambda params, state, x: jnp.zeros(x.shape[:1], x.dtype)
        >>> def add(params, state, total, x):
        ...     sums = total[:, None] + x.cumsum(1)
        ...     return sums, sums[:, -1]
        >>> client = jsplit.segment(lambda x: x * x + x, inputs="x", name="h")
        >>> sums = jsplit.segment(lambda h: h.cumsum(1), inputs="h", name="y")
        >>> server = jsplit.with_cache(sums, jsplit.Cache(zeros, add))
        >>> topology = jsplit.vanilla(client, server, loss=optax.squared_error)
        >>> trainer = jsplit.messages(topology, {})
        >>> x = jnp.ones((1, 3))
        >>> state = trainer.init(0, {"x": x, "label": x})
        >>> with jsplit.session(trainer, state, length=8) as s:
        ...     print(s({"x": x}), s({"x": x[:, :1]}))
        [[2. 4. 6.]] [[8.]]
    """
    config = getattr(trainer, "config", None)
    if not isinstance(config, Config):
        raise ValueError(f"`trainer` must be a jsplit.Trainer, got {shown(trainer)}.")
    refuse_used_up(state)
    found = _PROGRAMS.get(trainer.predict)
    if found is None:
        found = _PROGRAMS[trainer.predict] = SessionPrograms(config)
    return Session(found, state, batch, length)


class SessionPrograms:
    """What all sessions of a trainer share: its compiled walks.

    Attributes:
        checked: whether caches were found to give what segments give without them.
        inputs: by size of a session, the shapes of which caches are made.
        walks: by shapes of caches and of what a call is given, its compiled walk.
    """

    def __init__(self, config: Config):
        if config.mesh:
            raise ValueError(
                "`trainer` spreads its batch over a `mesh`; a session is of one without."
            )
        if not any(n.segment.cache for n in config.topology.segments):
            raise ValueError(
                "no segment of `trainer` has a cache, so each call would forget those "
                "before it: give one by `jsplit.split(..., decoding=)` or "
                "jsplit.with_cache, or call `trainer.predict`."
            )
        self.config = config._replace(microbatches=1, passing=None)
        self.layout = layout_of(self.config)
        self.needed = fields_of(config.topology, losses=False)
        self.drawing = secret_senders(config, train=False)
        self.checked = False
        self.inputs: Recent[Mapping[str, tuple[PyTree, ...]]] = Recent(_SIZES)
        self.walks: Recent[CompiledWalk] = Recent(KEPT)

    def walk(self, sizes: Hashable, checked: bool) -> CompiledWalk:
        """The compiled walk of a call; calls of one size share it.

        Args:
            sizes: of its caches, and of what it is given.
            checked: whether caches are compared with segments without them.
        """

        def make() -> CompiledWalk:
            return compiled(
                call_walk(self.config, checked=checked), self.config.kernels
            )

        return self.walks.of((sizes, checked), make)


_SIZES = 16
"""Sizes of sessions of which it is known what their caches are made of."""
KEPT = 64
"""Sizes of calls of which programs are kept: of prompts each length is another."""


def compiled(walk: Walk, kernels: str) -> CompiledWalk:
    """A walk of a call, whose caches are written in place."""
    return CompiledWalk(walk.turns(), walk.keep, jitted([Kind.CACHE], kernels=kernels))


def compiled_in_place(
    function: Callable[..., tuple], kernels: str
) -> Callable[..., tuple]:
    """A function whose first argument, caches, it gives back written in place."""
    return jit(function, kernels, donate_argnums=0)


# By `predict`, a function that each trainer has of its own: a session after another
# compiles nothing anew, and a trainer that is gone keeps nothing.
_PROGRAMS: WeakKeyDictionary[PredictFn, SessionPrograms] = WeakKeyDictionary()


class Session(Closing):
    """Some sequences that all parties compute piece by piece; `jsplit.session` makes one.

    Args:
        programs: compiled, which all sessions of a trainer share.
        state: of all parties.
        batch: how many sequences there are.
        length: the most positions that they may have.

    Attributes:
        fields: the names of what a call is given.
        batch: as given.
        length: as given.
        position: how many they have.

    Example:
        >>> import jsplit
        >>> jsplit.Session.__call__.__doc__.split(".")[0]
        'Compute the next positions'
    """

    def __init__(
        self, programs: SessionPrograms, state: TrainState, batch: int, length: int
    ):
        self.batch = as_positive_int("batch", batch)
        self.length = as_positive_int("length", length)
        self.fields = tuple(sorted(programs.needed))
        self.position = 0
        self._programs, self._state = programs, state
        self._topology: Topology = programs.config.topology
        self._store = load(programs.layout, state)
        self._open, self._lock = True, threading.Lock()
        self._sizes: Hashable = None

    def __call__(self, fields: Fields) -> PyTree:
        """Compute the next positions.

        Args:
            fields: every field that the segments read, [batch, positions, ...] each.

        Returns:
            The output at these positions, [batch, positions, ...]; of several outputs
            a dictionary by node.

        Raises:
            ValueError: if the session is over or would be longer than its `length`, a
                field does not fit, a segment is found to need a cache, or to have a
                wrong one, or a training step has used up the state.
        """
        # One after the other: a call of another thread would be given these fields.
        with self._lock:
            return call_on_state(self._state, self._next, fields)

    def _next(self, fields: Fields) -> PyTree:
        if not self._open:
            raise ValueError("the session is over; begin another one.")
        fields = as_arrays(fields)
        check_batch(self._topology, fields, self._programs.needed)
        fields = {f: fields[f] for f in self.fields}
        count = check_call(fields, self.batch, self.position, self.length)
        checks = not self._programs.checked and self.position == 0
        if checks:
            check_first(self._topology.segments, count)
        if self.position == 0:
            self._begin(fields)
        self._put(fields)
        # Caches are given away in the call: one that fails leaves none to go on with.
        self._open = False
        run = self._programs.walk((_sizes_of(fields), self._sizes), checks)
        run(self._store, InProcess())
        if checks:
            check_same(self._topology.segments, self._store)
            self._programs.checked |= count > 1
        self._open, self.position = True, self.position + count
        outputs = {}
        for name in self._topology.sinks:
            at = Name(self._topology.node[name].party, Kind.VALUE, name)
            outputs[name] = self._store.pop(at)
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _put(self, fields: Mapping[str, PyTree]) -> None:
        """Lay a call's fields at who holds them, and what tells the call from others."""
        words = words_of_call(None, self._programs.drawing, self._state, fields)
        for at in self._programs.layout.values():
            self._store[at.weight] = None
            if at.secret is not None:
                self._store[at.noise] = words
            for f, name in at.fields.items():
                if f in fields:
                    self._store[name] = fields[f]

    def _begin(self, fields: Mapping[str, PyTree]) -> None:
        """Make all caches, as long as the longest sequence."""
        whole = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                (self.batch, self.length, *x.shape[2:]), x.dtype
            ),
            dict(fields),
        )
        nodes, states = self._topology.segments, self._state.parties
        ops = call_walk(self._programs.config).ops

        def trace(given: Mapping[str, PyTree]) -> Mapping[str, tuple[PyTree, ...]]:
            self._put(given)
            return cache_inputs(nodes, states, ops, self._store)

        # Found by a trace of all segments, and the same for every session of one size.
        inputs = self._programs.inputs.of(
            _sizes_of(whole), lambda: run_or_name(trace, whole)
        )
        caches = first_caches(nodes, states, inputs)
        # Those of the first call: a cache that grows goes on in the programs it began in.
        self._sizes = _sizes_of(caches)
        self._store.update(caches)

    def close(self) -> None:
        """End the session, and let go of its caches.

        Example:
            >>> import jsplit
            >>> def over(session: jsplit.Session) -> int:
            ...     session.close()  # as at the end of `with`
            ...     return session.position
        """
        with self._lock:
            self._open = False
            self._store.clear()


def _sizes_of(tree: PyTree) -> Hashable:
    """The structure of a tree, and the shapes and dtypes of its arrays."""
    leaves, structure = jax.tree.flatten(tree)
    # A cache may hold a number of Python's.
    return structure, tuple((np.shape(x), getattr(x, "dtype", None)) for x in leaves)

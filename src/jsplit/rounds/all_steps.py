"""The loop over the steps of a round in which all clients step together.

In pseudo-code::

    for each step s:
        every client runs on its batch s, the others on all of them as one
        each client that took the step keeps what it has learned
        statistics that clients share are averaged
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jsplit.core.base import Info, PyTree
from jsplit.rounds.averages import add_clients, mean_of, zero_sums
from jsplit.rounds.carry import (
    Kept,
    LossSums,
    RoundArrays,
    RoundCarry,
    add_step,
    finite_of_round,
    info_of_round,
    put_rows,
    rows_of,
    sum_of_records,
    zero_losses,
)
from jsplit.rounds.forms import StateForms
from jsplit.rounds.recording import (
    TellingStep,
    Told,
    by_client,
    loop,
    only_live,
    recorded_round,
)
from jsplit.rounds.sharing import Sharing
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config
from jsplit.training.left_out import weights_of_round
from jsplit.training.walk import Address, Store


class AllClients(NamedTuple):
    """All clients of a round between two steps.

    Attributes:
        store: their states along a leading axis [K], and the states of
            those they train with.
        step: the number of the next step.
        sums: sums of losses over all clients.
        examples: how many examples each client had, [K].
    """

    store: Store
    step: jax.Array
    sums: LossSums
    examples: jax.Array


class AllSteps:
    """All steps of a round of clients that take each together.

    Args:
        config: of one client's topology.
        forms: of the state of all clients, and how it is shared.
        train_step: a step of all, by how many clients take part and their batch.
        at_end: whether parameters are looked at after the round alone.
    """

    def __init__(
        self,
        config: Config,
        forms: StateForms,
        train_step: Callable[[int, PyTree], TellingStep],
        at_end: bool = False,
    ):
        self.config, self.forms, self.sharing = config, forms, forms.sharing
        self.train_step, self.at_end = train_step, at_end
        # Made once: each holds compiled programs.
        self.trainers: dict[int, TellingStep] = {}

    def __call__(
        self,
        carry: RoundCarry,
        kept: Kept,
        fields: Mapping[str, PyTree],
        arrays: RoundArrays[jax.Array],
    ) -> tuple[RoundCarry, RoundInfo]:
        """Run the round."""
        config, sharing = self.config, self.sharing
        store, step, memory = carry
        own = sharing.pick(store, Sharing.OWN)
        taking_part = {**store, **rows_of(own, arrays.client)}

        def one(s: jax.Array, now: AllClients) -> tuple[AllClients, Told | None]:
            reads, weight = arrays.reads[:, s], arrays.weight[:, s]
            return self._step(now, s < arrays.steps, kept, fields, reads, weight)

        examples = jnp.zeros(len(arrays.client), jnp.result_type(float))
        sums = zero_losses(config, at_end=self.at_end)
        now = AllClients(taking_part, step, sums, examples)
        most = arrays.reads.shape[1] if config.records else None
        now, tape = loop(one, now, arrays.steps.max(), most)

        mine = sharing.pick(now.store, Sharing.OWN)
        store = {**now.store, **put_rows(own, arrays.client, mine)}
        # A loss of the large batch is nobody's alone.
        info = info_of_round(config, now.sums, store)._replace(
            each={},
            examples=now.examples,
            finite=finite_of_round(config, now.sums, at_end=self.at_end),
        )
        if tape is not None:
            places = jnp.arange(arrays.reads.shape[1], dtype=step.dtype)
            # Who has no record in a step takes none; see `_finish`.
            taken = (places < arrays.steps[:, None]) & (
                sum_of_records(arrays.weight, 2) > 0
            )
            numbers = jnp.broadcast_to(step + places, taken.shape)
            read = arrays.client, arrays.reads, arrays.weight
            told = recorded_round(*read, numbers, taken, by_client(tape))
            info = info._replace(recorded=told)
        return RoundCarry(store, now.step, memory), info

    def _step(
        self,
        now: AllClients,
        live: jax.Array,
        kept: Kept,
        fields: Mapping[str, PyTree],
        reads: jax.Array,
        weight: jax.Array,
    ) -> tuple[AllClients, Told | None]:
        """Run one step of all clients, on [K, B] records."""
        shared = {n: x for n, x in now.store.items() if self._is_averaged(n)}
        repeated, batch, weight, counts = self._begin(
            shared, live, fields, reads, weight
        )
        count = len(live)
        if count not in self.trainers:
            self.trainers[count] = self.train_step(count, batch)
        state = self.forms.one({**now.store, **repeated}, kept, now.step)
        weight = weights_of_round(weight)
        state, info, told = self.trainers[count](state, batch, weight)

        new = self.forms.learned(state.parties)
        # What other parties have is new, whoever took the step: it is one step
        # on the large batch.
        by_client = {
            n: x
            for n, x in now.store.items()
            if self._is_averaged(n) or self.sharing[n] is Sharing.OWN
        }
        stepped = {n: new[n] for n in by_client}
        left, sums, examples = self._finish(by_client, stepped, live, counts, info, now)
        now = AllClients({**new, **left}, now.step + 1, sums, examples)
        return now, only_live(live & (counts > 0), told)

    def _begin(
        self,
        shared: Store,
        live: jax.Array,
        fields: Mapping[str, PyTree],
        reads: jax.Array,
        weight: jax.Array,
    ) -> tuple[Store, PyTree, jax.Array, jax.Array]:
        """Prepare a step.

        Returns:
            For each client a copy of what is averaged after the step, the
            large batch, how much each example of it counts, and the sum of
            that by client.
        """

        def repeat(x: jax.Array) -> jax.Array:
            return jnp.repeat(x[None], len(live), 0)

        weight = weight * live.reshape(-1, *[1] * (weight.ndim - 1))
        batch = rows_of(fields, reads.reshape(-1))
        repeated = jax.tree.map(repeat, shared)
        joined = weight.reshape(-1, *weight.shape[2:])
        return repeated, batch, joined, sum_of_records(weight, 1)

    def _finish(
        self,
        old: Store,
        new: Store,
        live: jax.Array,
        counts: jax.Array,
        info: Info,
        now: AllClients,
    ) -> tuple[Store, LossSums, jax.Array]:
        """Average statistics; keep what a client had where it took no step."""
        # In global batches a client may have no example in a step that it
        # takes: a step of gradient 0 would still move it, by momentum or
        # weight decay.
        live = live & (counts > 0)
        # A step that was left out has left all as it was, which the mean of many times
        # the same is only to rounding.
        taken = jnp.ones((), bool)
        if self.config.nonfinite == "skip" and info.finite is not None:
            taken = info.finite.all()
        kept = {}
        for name, before in old.items():
            if self._is_averaged(name):
                total = add_clients(zero_sums(before), new[name], counts, before)
                mean = mean_of(total, counts.sum(), before)
                kept[name] = jax.tree.map(partial(jnp.where, taken), mean, before)
            else:
                kept[name] = jax.tree.map(partial(_keep, live), before, new[name])
        number = now.step + 1
        sums = add_step(self.config, now.sums, info, counts.sum(), number, self.at_end)
        return kept, sums, now.examples + counts

    def _is_averaged(self, name: Address) -> bool:
        """Return whether it is averaged over the clients after every step."""
        return self.sharing[name] is Sharing.AVERAGED


def _keep(live: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    """Return of each client the new array if it took the step."""
    return jnp.where(live.reshape(-1, *[1] * (new.ndim - 1)), new, old)

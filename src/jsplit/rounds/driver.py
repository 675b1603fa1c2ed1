"""From what a round computes to an `Algorithm`: checked, compiled and run, one round or many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.donation import call_on_state
from jsplit.core.federation import Federation, one_model
from jsplit.core.placement import replicate
from jsplit.core.secret_keys import numbered, words_of_call
from jsplit.core.trees import as_arrays
from jsplit.populations.round import Round
from jsplit.rounds.algorithm import Algorithm
from jsplit.rounds.carry import RoundArrays, RoundCarry
from jsplit.rounds.forms import StateForms
from jsplit.rounds.gathering import Gathering, with_rows
from jsplit.rounds.inputs import (
    batch_shapes,
    check_clients,
    check_round,
    fields_read,
    first_clients,
    round_arrays,
)
from jsplit.rounds.noise import OF_ROUND
from jsplit.rounds.programs import Programs
from jsplit.rounds.round_end import may_look_at_the_end, went_well
from jsplit.rounds.round_method import RoundMethod, check_trainer
from jsplit.rounds.round_metrics import RoundMetrics
from jsplit.rounds.state import RoundInfo
from jsplit.training.crossing import secret_senders
from jsplit.training.evaluating import check_counts
from jsplit.training.own_reads import training_fields
from jsplit.training.same_for_others import compared_fields
from jsplit.training.store import layout_of
from jsplit.training.strengths import Limits, limits_of, refuse_too_strong
from jsplit.training.verdicts import refuse_end, refuse_evaluation, refuse_round


def make_algorithm(method: RoundMethod) -> Algorithm:
    """Make an algorithm of what a round computes.

    Args:
        method: what a round computes.

    Returns:
        The algorithm; nothing is compiled yet.
    """
    config = check_trainer(method.trainer)
    read = training_fields(config)
    needed = frozenset(read | compared_fields(config.topology))
    forms = StateForms(layout_of(config), method.sharing, method.mesh)
    metrics = RoundMetrics(config, forms)
    programs = Programs(method, forms)
    driver = _Driver(method, forms, needed, programs, metrics, limits_of(config))
    return Algorithm(
        init=driver.init,
        step=driver.step,
        run=driver.run,
        evaluate=driver.evaluate,
        predict=driver.predict,
        config=method.config,
        sharing=method.sharing,
    )


@dataclass(frozen=True, eq=False)
class _Driver:
    """The functions of an algorithm, and what they have compiled so far."""

    method: RoundMethod
    forms: StateForms
    needed: frozenset[str]
    programs: Programs
    metrics: RoundMetrics
    limits: Limits
    gathering: Gathering = field(default_factory=Gathering)

    def init(self, key: jax.Array | int, round: Round) -> Federation:
        """Make the first state of all clients and of those they train with.

        Every client starts from the same.

        Args:
            key: a PRNG key, or an integer seed.
            round: a round as a population draws it, of which only shapes
                matter.

        Returns:
            The state. What each client has of its own has a leading axis
            [clients], of all clients of the population.

        Raises:
            ValueError: if `round` is no round, or lacks a field.
        """
        check_round(round, self.needed)
        first = self.method.trainer.init(key, batch_shapes(round, self.needed))
        # Key and step are the same at all parties, so those of any will
        # do.
        one = next(iter(first.parties.values()))
        learned, kept = (
            self.forms.learned(first.parties),
            self.forms.kept(first.parties),
        )
        store = self.forms.repeat_own(learned, round.clients)
        carry = RoundCarry(store, one.step, self.method.server_init(store))
        # Clients without names are called by their numbers.
        names = round.names or tuple(map(str, range(round.clients)))
        return self.forms.close(*self.forms.at_rest(carry, kept), names)

    def step(self, state: Federation, round: Round) -> tuple[Federation, RoundInfo]:
        """Train one round.

        Args:
            state: from `init`, or from the round before.
            round: which clients take part, and what they read in which
                step.

        Returns:
            The new state, and the losses of the round.

        Raises:
            ValueError: if `round` is no round, lacks a field, or is of
                another number of clients than the state.
            NotFinite: if a step of it leaves what is not finite, and the
                trainer refuses that.
        """
        self._check(state, round)
        refuse_too_strong(self.limits, state)
        [round], rows = self.gathering([round], self.needed)
        given = self._fields(round), self._arrays(round)
        new, info = self._train(state, *given, several=False)
        return new, with_rows(first_clients(info, len(round.client)), rows)

    def run(
        self, state: Federation, rounds: Iterable[Round]
    ) -> tuple[Federation, RoundInfo]:
        """Train several rounds in one program.

        Args:
            state: from `init`, or from the round before.
            rounds: rounds of equal shapes on the same data.

        Returns:
            The new state, and the losses of each round, with a leading axis
            [rounds].

        Raises:
            ValueError: if the rounds have different shapes or data, and
                whatever `step` raises.
        """
        rounds = list(rounds)
        shapes = {r.reads.shape for r in rounds}
        # By identity: data of several gigabytes are not compared.
        data = {tuple(map(id, jax.tree.leaves(dict(r.fields)))) for r in rounds}
        if len(shapes) != 1 or len(data) != 1:
            raise ValueError(
                "`rounds` must be several of equal shapes on the same `fields`, got "
                f"the shapes {sorted(shapes)}."
            )

        for one in rounds:
            self._check(state, one)
        refuse_too_strong(self.limits, state)
        rounds, rows = self.gathering(rounds, self.needed)
        arrays = map(self._arrays, rounds)
        many = RoundArrays(*(np.stack(x) for x in zip(*arrays, strict=True)))
        new, infos = self._train(state, self._fields(rounds[0]), many, several=True)
        return new, with_rows(first_clients(infos, len(rounds[0].client)), rows)

    def _train(
        self,
        state: Federation,
        fields: Mapping[str, PyTree],
        arrays: RoundArrays[np.ndarray],
        several: bool,
    ) -> tuple[Federation, RoundInfo]:
        """Run one round or several, and judge what they leave."""
        carry, kept = self.forms.open(state)

        def run(at_end: bool) -> tuple[RoundCarry, RoundInfo]:
            program = self.programs.of(
                arrays, training=True, several=several, at_end=at_end
            )
            return call_on_state(state, program, carry, kept, fields, arrays)

        config = self.method.config
        at_end = may_look_at_the_end(config, carry, kept, fields)
        new, info = run(at_end)
        if at_end and not went_well(info):
            # Nothing is donated where steps are refused, so it can be run again.
            end, (new, info) = info, run(False)
            refuse_round(config.nonfinite, info.finite)
            # No step has left it: an average has, or the server's step.
            refuse_end(end.finite)
        refuse_round(config.nonfinite, info.finite)
        return self.forms.close(new, kept, state.clients.names), info

    def evaluate(
        self, state: Federation, round: Round, *, noise: jax.Array | None = None
    ) -> RoundInfo:
        """Measure all losses in inference mode; changes nothing.

        Args:
            state: from `init` or `step`.
            round: which clients are measured, and on which records.
            noise: a key of this call, for links with `secret=True`, as for
                `evaluate` of a trainer.

        Returns:
            The losses, and every metric over all examples; both by client
            too, NaN where a client alone has no such metric.

        Raises:
            ValueError: if `round` is no round, lacks a field, is of another
                number of clients than the state, or a metric cannot be
                computed.
            NotFinite: if a loss is not finite or a class number out of
                range, and the trainer refuses that.
        """
        asked = self.needed | self.metrics.fields
        check_round(round, asked)
        self._check(state, round)
        refuse_too_strong(self.limits, state)
        [round], _ = self.gathering([round], asked, training=False)
        arrays = self._arrays(round)
        # Steps that are not taken count nothing.
        taken = np.arange(round.weight.shape[1]) < round.steps[:, None]
        check_counts([round.weight[taken]])
        program = self.programs.of(arrays, training=False)
        carry, kept = self.forms.open(state)
        drawing = secret_senders(self.method.config, train=False)
        words = words_of_call(noise, drawing, state)
        if words is not None:
            # Numbered anew for every batch, by the client that is measured on it.
            carry.store[OF_ROUND] = jnp.asarray(numbered(words, 0))
        fields = self._fields(round)
        _, info = call_on_state(state, program, carry, kept, fields, arrays)
        refuse_evaluation(self.method.config.nonfinite, info.finite)
        self.method.scalars.warn(int(round.steps.sum()), 3)
        info = first_clients(info, len(round.client))
        return self.metrics.add(info, carry, kept, fields, round)

    def predict(
        self,
        state: Federation,
        fields: Mapping[str, PyTree],
        client: int | str | None = None,
        at: str | Sequence[str] | None = None,
        *,
        noise: jax.Array | None = None,
    ) -> Mapping[str, PyTree]:
        """Compute the outputs of the model in inference mode.

        Args:
            state: from `init` or `step`.
            fields: what the model reads, [batch, ...].
            client: whose model to predict with, by number from 0 or by name;
                needed only where clients have weights or statistics of
                their own. Without it secret noise is that of the first.
            at: names of values that cross, to have these as their receivers
                decode them; see `predict` of a `jsplit.Trainer`.
            noise: a key of this call, as for `evaluate`.

        Returns:
            By node that no other node reads, its output; or what `at` names.

        Raises:
            ValueError: if `client` is needed and missing, there is no such
                client, or `at` names what does not cross.
        """
        mesh = self.method.mesh
        one = replicate(one_model(state, client), mesh)
        fields = replicate(dict(as_arrays(fields)), mesh)
        return self.method.trainer.predict(one, fields, at, noise=noise)

    def _fields(self, round: Round) -> dict[str, PyTree]:
        """Return the fields that are read, on the devices."""
        found = fields_read(round, self.needed)
        if self.method.mesh is None:
            return jax.tree.map(jnp.asarray, found)
        return replicate(found, self.method.mesh)

    def _check(self, state: Federation, round: Round) -> None:
        """Refuse what is no round, or none of the clients of the state."""
        check_round(round, self.needed)
        check_clients(round, self.forms.own(state.parties), state.clients.names)

    def _arrays(self, round: Round) -> RoundArrays[np.ndarray]:
        """Return the arrays of a round, filled up to whole groups."""
        return round_arrays(round, self.method.group_size(len(round.client)))

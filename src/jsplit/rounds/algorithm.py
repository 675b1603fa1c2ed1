"""The signature that every algorithm over rounds has: five functions, a config and a table.

It is that of a `jsplit.Trainer`, whose batches are rounds of a population.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax

from jsplit.core.base import PyTree
from jsplit.core.federation import Federation
from jsplit.populations.round import Round
from jsplit.rounds.sharing import SharingTable
from jsplit.rounds.state import RoundInfo
from jsplit.training.config import Config


class InitClients(Protocol):
    """`init(key, round) -> state`: make the first state of all clients."""

    # Of the round only shapes matter, so that a state can be made before
    # there is any data.
    def __call__(self, key: jax.Array | int, round: Round) -> Federation: ...


class TrainRound(Protocol):
    """`step(state, round) -> (state, info)`: train one round."""

    # The state that goes in stays valid, unless the trainer donates it.
    def __call__(
        self, state: Federation, round: Round
    ) -> tuple[Federation, RoundInfo]: ...


class TrainRounds(Protocol):
    """`run(state, rounds) -> (state, infos)`: train several rounds."""

    # In one program where that is fast; then only its shapes are compiled
    # for.
    def __call__(
        self, state: Federation, rounds: Iterable[Round]
    ) -> tuple[Federation, RoundInfo]: ...


class EvaluateRound(Protocol):
    """`evaluate(state, round) -> info`: measure losses in inference mode."""

    # The state is not used up.
    def __call__(
        self, state: Federation, round: Round, *, noise: jax.Array | None = None
    ) -> RoundInfo: ...


class PredictAsClient(Protocol):
    """`predict(state, fields, client=None, at=None) -> {node: output}`."""

    # `client`, a number or a name, is needed only where clients have weights
    # or statistics of their own; `at` asks for what crosses, as a trainer's does.
    def __call__(
        self,
        state: Federation,
        fields: Mapping[str, PyTree],
        client: int | str | None = None,
        at: str | Sequence[str] | None = None,
        *,
        noise: jax.Array | None = None,
    ) -> Mapping[str, PyTree]: ...


class Algorithm(NamedTuple):
    """A way to train many clients: the signature of a `Trainer`, whose batches are rounds.

    Attributes:
        init: `init(key, round) -> state`; of the round only shapes matter.
        step: `step(state, round) -> (state, info)`. The state that goes in
            stays valid, unless the trainer's `donate` says otherwise.
        run: `run(state, rounds) -> (state, infos)`, several rounds of
            equal shapes on the same data, in one program where that is
            fast; the infos have a leading axis [rounds].
        evaluate: `evaluate(state, round) -> info`, in inference mode, by
            client and overall; changes nothing.
        predict: `predict(state, fields, client=None, at=None) -> {node:
            output}`; `client` says whose, where clients have parts of
            their own, and `at` asks for what crosses.
        config: that of the trainer.
        sharing: how each part of each party's state gets from one client
            to the next; prints as a table.
        recording: makes the same algorithm with a record of its steps, for
            `jsplit.record`; `None` of one that records.

    Example:
        >>> import jsplit
        >>> jsplit.rounds.Algorithm._fields
        ('init', 'step', 'run', 'evaluate', 'predict', 'config', 'sharing', 'recording')
    """

    init: InitClients
    step: TrainRound
    run: TrainRounds
    evaluate: EvaluateRound
    predict: PredictAsClient
    config: Config
    # With defaults, so that an algorithm made by hand needs none.
    sharing: SharingTable = SharingTable({})
    recording: Callable[[tuple[str, ...]], Algorithm] | None = None

    def __repr__(self) -> str:
        # What travels is what tells algorithms apart; the functions hold the whole
        # driver, whose own text would fill many screens.
        return f"Algorithm\n{self.sharing}"

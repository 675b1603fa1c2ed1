"""`report`: train, watch, attack and measure one's own topology on one's own data, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import jax
import numpy as np

from jsplit.core.base import Fields, PyTree, TrainState
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.trainer import Trainer
from jsplit.core.trees import as_arrays, batch_of
from jsplit.privacy.attacks.attack import seed_of
from jsplit.privacy.reporting.attempt import Attempt
from jsplit.privacy.reporting.knowing import (
    Known,
    check_known,
    classes_in,
    known_places,
)
from jsplit.privacy.reporting.of_tokens import checked_tables
from jsplit.privacy.reporting.outcome import Setting, outcome
from jsplit.privacy.reporting.ranges import checked_ranges, near
from jsplit.privacy.reporting.records import Outcome
from jsplit.privacy.reporting.registered import attempts
from jsplit.privacy.reporting.training import take
from jsplit.privacy.reporting.whole import Report
from jsplit.training.config import Config

PLAIN = "none"
HELD_OUT = 4  # one record of so many, where no test records are given
FEWEST = 16


def report(
    trainer: Trainer,
    data: Fields,
    *,
    test: Fields | None = None,
    public: Fields | None = None,
    known: Known = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    tables: Mapping[str, PyTree] | None = None,
    attacks: Sequence[Attempt] | None = None,
    defences: Mapping[str, Trainer] | None = None,
    states: Mapping[str, TrainState] | None = None,
    epochs: int = 10,
    batch: int = 64,
    watched: int = 16,
    attacked: int = 1024,
    steps: int | None = None,
    pictures: int = 0,
    key: jax.Array | int = 0,
) -> Report:
    """Report what a training gives away: to whom, by which attack, at which cut.

    Each trainer is trained on the same batches. What every party sees in the first and
    in the last steps is recorded, and what crosses in an inference after them. Then
    each attack is run by each party at each cut where its threat exists; where the
    topology proves that there is none, or something that it needs was not given, that
    is said. A score is a lower bound of what somebody could reach.

    It simulates: it needs the data of all parties in one place, so it is for public
    data, or for one owner's, of the kind and in the number that there will be. It takes
    minutes or more: the logger "jsplit" says at level INFO what begins, before each
    training and each attack.

    Args:
        trainer: of `jsplit.fused` or `jsplit.messages`; without defence.
        data: every field that the topology reads, [records, ...] each. These are the
            private records.
        test: the same of records for losses and metrics; by default a quarter of `data`,
            drawn at random and not trained on.
        public: records of the same kind that are nobody's secret, for attacks that learn
            from some; every field that nodes read.
        known: whose labels the adversary knows: how many records of each class, or
            their places in `data`, or booleans. By default nobody's, and attacks that
            need some are listed as not tested. More than there are is refused.
        ranges: by field, its smallest and largest value, for attacks that use them.
        tables: by field of tokens, a public embedding of them, [vocabulary, width].
        attacks: what is tried; by default `attempts()`.
        defences: by name, other trainers that stand beside.
        states: by defence, or `"none"`, the state of a training that is over: that
            trainer is not trained, but for `watched` steps more whose result is dropped.
        epochs: passes over the records.
        batch: records in a step; all of them if there are fewer.
        watched: how many of the first, and of the last, steps are attacked.
        attacked: at most how many records of an inference are.
        steps: of optimisation for each attack; by default its own. With fewer an attack
            is marked as not converged.
        pictures: how many of the records that are given away most each attack on inputs
            shows beside the originals, which needs the extra `draw`. 0: the report
            has no value of a record.
        key: a PRNG key, or an integer seed of one. Secret noise of links comes from the
            system all the same.

    Returns:
        A `Report`: `print` shows tables; `.markdown()`, `.html()`, `.json()`.

    Raises:
        ValueError: naming the argument that does not fit.
        NotFinite: if a training leaves what is not finite.

    Example:
        >>> import jax, jsplit, optax
        >>> draw = lambda key, x: jax.random.normal(key, (x.shape[-1], 2))
        >>> bottom = jsplit.segment(lambda w, x: x @ w, init=draw, inputs=["x"])
        >>> top = jsplit.segment(lambda w, h: h @ w, init=draw, inputs=["h"])
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> topology = jsplit.vanilla(bottom, top, loss=loss)
        >>> x = jax.random.normal(jax.random.key(0), (128, 3))
        >>> data = {"x": x, "label": (x[:, 0] > 0).astype("int32")}
        >>> norm = jsplit.privacy.attempts()[:1]
        >>> found = jsplit.privacy.report(
        ...     jsplit.fused(topology, optax.sgd(0.1)), data, attacks=norm, epochs=2
        ... )
        >>> [(f.cut, f.score.adversary.party, f.score.attack) for f in found["none"].best]
        [('smashed', 'client', 'norm')]
    """
    trainers = _trainers(trainer, defences, states)
    data = as_arrays(data)
    count = batch_of(data)
    _check_fields(trainers, data, test)
    told = checked_ranges(ranges, data)
    _check_counts(
        *(count, pictures),
        {"epochs": epochs, "batch": batch, "watched": watched, "attacked": attacked}
        | ({} if steps is None else {"steps": steps}),
    )
    key = jax.random.key(key) if isinstance(key, int) else key
    where = known_places(known, count)
    test = test and _checked(as_arrays(test), "test", data)
    kept = np.arange(count)
    if test is None:
        kept, aside = _apart(count, key)
        test = take(_on_host(data), aside)
    if isinstance(where, np.ndarray):
        where = where[kept]
    # On the host: each step takes other rows, and an index of JAX is a program.
    train = take(_on_host(data), kept)
    check_known(where, _labels(trainer, train), len(kept))
    setting = Setting(
        train,
        len(kept),
        _on_host(test),
        batch_of(test),
        _tried(attacks),
        _public(public, data),
        where,
        told,
        checked_tables(tables, data),
        epochs,
        min(batch, len(kept)),
        watched,
        attacked,
        pictures,
        steps,
        key,
    )
    return Report(tuple(_outcomes(trainers, setting, states or {})))


def _outcomes(
    trainers: Mapping[str, Trainer],
    setting: Setting,
    states: Mapping[str, TrainState],
) -> Iterator[Outcome]:
    """What is said of each trainer, one after the other."""
    for number, (name, one) in enumerate(trainers.items(), start=1):
        place = f"{number} of {len(trainers)}"
        yield outcome(name, one, setting, states.get(name), place)


def _apart(count: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Which records are trained on, and which are not."""
    drawn = np.random.default_rng(seed_of(jax.random.fold_in(key, 1)))
    kept, aside = np.split(drawn.permutation(count), [count - count // HELD_OUT])
    return kept, aside


def _trainers(
    trainer: Trainer,
    defences: Mapping[str, Trainer] | None,
    states: Mapping[str, TrainState] | None,
) -> dict[str, Trainer]:
    """All trainers by name, the plain one first."""
    if PLAIN in (defences or {}):
        raise ValueError(f"`defences` must not name one {PLAIN!r}: that is `trainer`.")
    trainers = {PLAIN: trainer, **(defences or {})}
    for name, t in trainers.items():
        what = "trainer" if name == PLAIN else f"defences[{name!r}]"
        if not isinstance(t, Trainer) or not isinstance(t.config, Config):
            raise ValueError(
                f"`{what}` must be a trainer of jsplit.fused or jsplit.messages, got "
                f"{type(t).__name__}; of an algorithm over clients give its trainer."
            )
    for name in states or {}:
        if name not in trainers:
            there = ", ".join(trainers)
            raise ValueError(f"`states` must be of {there}, got {shown(name)}.")
    return trainers


def _check_counts(records: int, pictures: int, counts: Mapping[str, int]) -> None:
    """Refuse numbers that do not fit."""
    for name, value in counts.items():
        as_positive_int(name, value)
    if isinstance(pictures, bool) or not isinstance(pictures, int) or pictures < 0:
        raise ValueError(f"`pictures` must be 0 or more, got {shown(pictures)}.")
    if records < FEWEST:
        raise ValueError(f"`data` must have at least {FEWEST} records, got {records}.")


def _check_fields(
    trainers: Mapping[str, Trainer], data: Fields, test: Fields | None
) -> None:
    """Refuse data that lack a field that some trainer reads."""
    for name, t in trainers.items():
        fields = t.config.topology.fields  # type: ignore[attr-defined]
        for what, given in (("data", data), ("test", test)):
            lacking = [f for f in fields if given is not None and f not in given]
            if lacking:
                raise ValueError(
                    f"`{what}` must have every field that training {name!r} reads, lacks "
                    f"{', '.join(lacking)}."
                )


def _labels(trainer: Trainer, data: Fields) -> dict[str, PyTree]:
    """The fields with class numbers that a loss reads."""
    topology = cast(Config, trainer.config).topology
    read = dict.fromkeys(i for loss in topology.losses for i in loss.reads)
    found = {i: data[i] for i in read if i in topology.fields}
    return {i: x for i, x in found.items() if classes_in(x) is not None}


def _tried(attacks: Sequence[Attempt] | None) -> tuple[Attempt, ...]:
    """The attacks that are tried, looked at."""
    found = attempts() if attacks is None else tuple(attacks)
    for one in found:
        if not isinstance(one, Attempt):
            raise ValueError(
                "`attacks` must be Attempts, as of jsplit.privacy.attempts(), got "
                f"{shown(one)}."
            )
    return found


def _public(given: Fields | None, data: Fields) -> dict[str, PyTree] | None:
    """Public records on the host, of the shapes of private ones."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ValueError(
            f"`public` must be a dictionary of fields, got {type(given).__name__}."
        )
    found = _on_host(as_arrays(given))
    # One beside those of `data` is nobody's matter, but for the slip that it may be.
    for name in (f for f in found if f not in data):
        if len(lacking := [f for f in data if f not in found]):
            raise ValueError(
                f"`public` lacks {', '.join(lacking)} and has {shown(name)}, which is no "
                f"field of `data`; {near(name, [*data])}."
            )
    return _checked(found, "public", data)


def _checked(given: Fields, what: str, data: Fields) -> dict[str, PyTree]:
    """Records whose shapes are those of `data`: it is known before hours of training."""
    for name in (f for f in given if f in data):
        one, other = (
            [np.shape(x)[1:] for x in jax.tree.leaves(of[name])] for of in (given, data)
        )
        if one != other:
            raise ValueError(
                f"`{what}` must hold `{name}` in the shapes that `data` has, "
                f"{shown(other)} a record, got {shown(one)}."
            )
    return dict(given)


def _on_host(data: Fields) -> dict[str, PyTree]:
    return {f: jax.tree.map(np.asarray, x) for f, x in data.items()}

"""What is asked for of the data, and the source of what is read: the same for every kind of data.

An argument that would not act on the data that is given is refused, and not passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import cast

import jax
import numpy as np

from jsplit.core.base import Fields, PyTree
from jsplit.core.checks import as_positive_int, one_of
from jsplit.core.trees import as_arrays, as_weight, batch_of
from jsplit.fitting.arrays import as_batches, seed_of
from jsplit.fitting.class_weights import ClassWeight, record_weights, together
from jsplit.fitting.client_rounds import as_rounds
from jsplit.fitting.pieces import Given, Source, digest_of_all, stream
from jsplit.fitting.plan import Trains, check_kind, config_of
from jsplit.fitting.schedules import LAST
from jsplit.populations.population import Population
from jsplit.rounds.algorithm import Algorithm
from jsplit.training.config import Config
from jsplit.training.meshes import check_even

_BATCH = 32  # records of a step, as Keras has it


@dataclass(frozen=True, eq=False)
class Asked:
    """What is asked for of the data; `jsplit.fit` documents each.

    Attributes:
        batch: records of a step.
        key: of their order.
        population: who has which.
        shuffle: whether they are read in a new order in each epoch.
        last: what becomes of a ragged last batch.
        weight: how much each counts.
        class_weight: how much each class counts.
        label: the field of class numbers.
    """

    batch: int | None
    key: jax.Array | int
    population: Population | None
    shuffle: bool
    last: str
    weight: PyTree
    class_weight: ClassWeight | None
    label: str

    @property
    def size(self) -> int:
        """Records of a step of arrays.

        Raises:
            ValueError: if it is no positive integer.
        """
        return _BATCH if self.batch is None else as_positive_int("batch", self.batch)

    @property
    def settings(self) -> dict[str, object]:
        """What must be the same when a training goes on, whatever the data is."""
        return {"key": seed_of(self.key)}

    def source(self, trains: Trains, data: Given) -> Source:
        """Check all of it, and make the source of what is read.

        Raises:
            ValueError: naming the argument that does not fit.
        """
        one_of("last", self.last, LAST)
        one_of("shuffle", self.shuffle, (True, False))
        if isinstance(data, Mapping):
            source = self._of_arrays(trains, cast(Fields, data))
        else:
            self._refuse_arrays_only()
            source = stream("data", data)
        check_kind(trains, source.first(), "data")
        return source

    def _of_arrays(self, trains: Trains, data: Fields) -> Source:
        fields = as_arrays(data, "field `{}` of the data")
        by_class = None
        if self.class_weight is not None:
            by_class = record_weights(self.class_weight, fields, self.label)
        own = None if self.weight is None else np.asarray(as_weight(self.weight, data))
        weight = together(own, by_class)
        if weight is not None and not np.any(weight):
            name = "weight" if self.class_weight is None else "class_weight"
            raise ValueError(
                f"`{name}` is 0 for all records: nothing would be trained."
            )
        settings: dict[str, object] = {
            "records": batch_of(fields),
            "batch": self.size,
            "weight": None if weight is None else sha256(weight.tobytes()).hexdigest(),
        }
        if isinstance(trains, Algorithm):
            self._refuse_trainers_only()
            people = as_rounds(fields, self.population, weight, self.size)
            settings["population"] = _digest_of(people.people)
            return _told_apart(Source(people.pieces, settings), people.fields)
        if self.population is not None:
            raise ValueError(
                "`population` is for an algorithm of jsplit.rounds; `trainer` is one of "
                "one client."
            )
        seed = seed_of(self.key) if self.shuffle else None
        batches = as_batches(fields, weight, self.size, self.last, seed)
        _check_last(config_of(trains), batches.records, self.size, self.last)
        settings |= {"shuffle": self.shuffle, "last": self.last}
        return _told_apart(Source(batches.pieces, settings), batches.fields)

    def _refuse_trainers_only(self) -> None:
        if self.last != "keep" or not self.shuffle:
            raise ValueError(
                "`last` and `shuffle` are for a trainer: what a round reads, its "
                "population draws. Give `data` as a function of the epoch that draws it."
            )

    def _refuse_arrays_only(self) -> None:
        given = {
            "batch": self.batch,
            "population": self.population,
            "weight": self.weight,
            "class_weight": self.class_weight,
            "shuffle": None if self.shuffle else False,
            "last": None if self.last == "keep" else self.last,
        }
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` is for `data` of arrays, fields by name; batches and "
                    "rounds that are given come as they are, with weights in pairs "
                    "(fields, weight) or by `round.counting`."
                )


def _told_apart(source: Source, fields: Fields) -> Source:
    """The source, which says of what data it is."""
    whole = digest_of_all(fields, source.first())
    return Source(source.pieces, {**source.settings, "data": whole})


def _digest_of(people: Population) -> str:
    found = sha256(f"{people.seed} {people.names} {people.sizes}".encode())
    for records in people.records:
        found.update(np.asarray(records, np.int64).tobytes())
    return found.hexdigest()


def _check_last(config: Config, records: int, size: int, last: str) -> None:
    """Refuse batches that devices or micro-batches do not divide before an epoch is trained.

    Raises:
        ValueError: saying what would do.
    """
    rest = records % size
    sizes = [min(size, records)] if last == "pad" or records >= size else []
    if last == "pad":
        sizes = [size]
    if rest and last == "keep":
        sizes.append(rest)
    for one in sizes:
        if one % config.microbatches:
            raise ValueError(
                f"a batch of {one} of {records} records does not divide into "
                f"{config.microbatches} micro-batches: give another `batch`, or "
                '`last="pad"` or "drop".'
            )
        check_even(config, one)

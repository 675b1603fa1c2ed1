"""Ways to divide a data set over clients: evenly, by label, by size, by natural groups.

Each function here returns a `Population`. A new way to divide is a function
beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from jsplit.core.checks import as_positive_int, shown
from jsplit.core.foreign import is_table
from jsplit.core.ids import listed
from jsplit.populations.checks import at_most
from jsplit.populations.population import Population

_DRAWS = 1000
"""So many partitions are drawn before a client without enough records is an error."""


def iid(records: int, clients: int, seed: int = 0) -> Population:
    """Deal out records at random, to each client equally many, or one more.

    Args:
        records: how many records there are.
        clients: how many clients, at most `records`.
        seed: seed of the draw, and of the order in which records are read.

    Returns:
        The population.

    Raises:
        ValueError: if a number is no positive integer, or there are more
            clients than records.

    Example:
        >>> import jsplit
        >>> people = jsplit.population.iid(records=10, clients=3)
        >>> people
        Population(3 clients with 3 to 4 records each, seed=0)
        >>> [r.tolist() for r in people.records]
        [[2, 4, 6, 7], [3, 5, 9], [0, 1, 8]]
    """
    records = as_positive_int("records", records)
    clients = at_most(records, clients)
    order = np.random.default_rng(seed).permutation(records)
    # `array_split` gives the first clients one record more where it does not
    # divide.
    return _population(np.array_split(order, clients), seed)


def everyone(records: int, clients: int, seed: int = 0) -> Population:
    """Give all records to every client.

    This is a test set on which each client is evaluated, where clients have
    parameters of their own.

    Args:
        records: how many records there are.
        clients: how many clients.
        seed: seed of the order in which records are read.

    Returns:
        The population.

    Raises:
        ValueError: if a number is no positive integer.

    Example:
        >>> import jsplit
        >>> jsplit.population.everyone(records=10, clients=3).sizes
        (10, 10, 10)
    """
    records = as_positive_int("records", records)
    # Records are shared here, so there may be more clients than records.
    clients = as_positive_int("clients", clients)
    # One array for all: of thousands of clients copies would fill the memory.
    names = tuple(f"client {i}" for i in range(clients))
    return Population((np.arange(records),) * clients, names, seed)


def dirichlet(
    labels: Sequence[int] | np.ndarray,
    clients: int,
    alpha: float,
    seed: int = 0,
    least: int = 1,
) -> Population:
    """Divide each class over the clients in proportions drawn from a Dirichlet distribution.

    This is label skew: clients differ in which classes they have.

    Args:
        labels: the class of each record, [records].
        clients: how many clients, at most as many as there are records.
        alpha: concentration. Where it is small, each client has few classes;
            where it is large, all clients are alike.
        seed: seed of the draw, and of the order in which records are read.
        least: records that each client must have. The partition is drawn anew
            until it is so, at most 1000 times.

    Returns:
        The population.

    Raises:
        ValueError: if `labels` is no vector, a number is not positive, there
            are more clients than records, or no draw gives every client
            `least` records.

    References:
        Yurochkin et al., `Bayesian nonparametric federated learning of neural
        networks <https://arxiv.org/abs/1905.12022>`_, 2019; Li et al.,
        `Federated learning on non-IID data silos
        <https://arxiv.org/abs/2102.02079>`_, 2022.

    Example:
        >>> import jsplit
        >>> people = jsplit.population.dirichlet([0, 0, 0, 1, 1, 1], clients=2, alpha=0.5)
        >>> sorted(i for r in people.records for i in r.tolist())
        [0, 1, 2, 3, 4, 5]
    """
    labels = _groups_of("labels", labels)
    clients = at_most(len(labels), clients)
    rng = np.random.default_rng(seed)

    def draw() -> list[np.ndarray]:
        parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label in np.unique(labels):
            mine = rng.permutation(np.flatnonzero(labels == label))
            # Proportions are drawn for each class apart, so a client's classes
            # are independent.
            proportions = rng.dirichlet(np.full(clients, alpha))
            for part, piece in zip(parts, _divide(mine, proportions), strict=True):
                part.append(piece)
        return [np.concatenate(part) for part in parts]

    return _draw_until_enough(draw, alpha, least, seed)


def quantity(
    records: int, clients: int, alpha: float, seed: int = 0, least: int = 1
) -> Population:
    """Deal out records at random, in sizes drawn from a Dirichlet distribution.

    This is quantity skew: clients differ in how many records they have.

    Args:
        records: how many records there are.
        clients: how many clients, at most `records`.
        alpha: concentration. Where it is small, few clients have most records;
            where it is large, all have about equally many.
        seed: seed of the draw, and of the order in which records are read.
        least: records that each client must have. The partition is drawn anew
            until it is so, at most 1000 times.

    Returns:
        The population.

    Raises:
        ValueError: if a number is not positive, there are more clients than
            records, or no draw gives every client `least` records.

    References:
        Li et al., `Federated learning on non-IID data silos
        <https://arxiv.org/abs/2102.02079>`_, 2022.

    Example:
        >>> import jsplit
        >>> people = jsplit.population.quantity(records=60, clients=3, alpha=1.0)
        >>> sum(people.sizes), min(people.sizes) >= 1
        (60, True)
    """
    records = as_positive_int("records", records)
    clients = at_most(records, clients)
    rng = np.random.default_rng(seed)

    def draw() -> list[np.ndarray]:
        order = rng.permutation(records)
        return _divide(order, rng.dirichlet(np.full(clients, alpha)))

    return _draw_until_enough(draw, alpha, least, seed)


def grouped(groups: Sequence | np.ndarray, seed: int = 0) -> Population:
    """Make a client of every group that there is: a hospital, a patient.

    Args:
        groups: the name of the group of each record, [records]: strings or
            numbers.
        seed: seed of the order in which records are read.

    Returns:
        The population, whose clients have the names of their groups, in sorted
        order.

    Raises:
        ValueError: if `groups` is no vector, or empty.

    Example:
        >>> import jsplit
        >>> people = jsplit.population.grouped(["b", "a", "b"])
        >>> people.names, [r.tolist() for r in people.records]
        (('a', 'b'), [[1], [0, 2]])
    """
    # Sorted names: a client's place does not depend on the order of the
    # records.
    of_records = _groups_of("groups", groups)
    if not len(of_records):
        raise ValueError("`groups` must be a vector, one for each record, got none.")
    names, member = np.unique(of_records, return_inverse=True)
    # One stable sort, where a look at all records for each group would be slow.
    ends = np.cumsum(np.bincount(member))[:-1]
    records = tuple(np.split(np.argsort(member, kind="stable"), ends))
    return Population(records, tuple(map(str, names)), seed)


def _groups_of(name: str, given: Iterable[object]) -> np.ndarray:
    """The group of each record, [records].

    Raises:
        ValueError: if some records have none. It gives counts, and no group.
    """
    shape = getattr(given, "shape", (0,))
    if len(shape) != 1 and not is_table(given):
        raise ValueError(
            f"`{name}` must be a vector, one for each record, got shape {tuple(shape)}."
        )
    # Integers lack none, and a long data set is not looked at one by one.
    if type(given) is np.ndarray and given.dtype.kind in "biu":
        return given
    entries = listed(name, given)
    # Rows of a table in a list, as long as each other or not.
    if any(isinstance(x, (list, tuple, np.ndarray)) for x in entries):
        raise ValueError(f"`{name}` must be a vector, one for each record, got lists.")
    if none := sum(map(_is_missing, entries)):
        raise ValueError(f"`{name}` of {len(entries)} records: {none} are missing.")
    return np.asarray(entries)


def _is_missing(x: object) -> bool:
    """Whether an entry is none: then a record would be in no group at all."""
    # NaN, and what others have for it, is not equal to itself; of some not even that
    # is known.
    try:
        return x is None or bool(x != x)  # noqa: PLR0124
    except TypeError:
        return True


def _divide(records: np.ndarray, proportions: np.ndarray) -> list[np.ndarray]:
    """Cut `records` into consecutive pieces in these proportions."""
    # The ends are rounded, not the sizes: so every record lies in exactly one
    # piece.
    ends = np.round(np.cumsum(proportions)[:-1] * len(records)).astype(int)
    return np.split(records, ends)


def _draw_until_enough(
    draw: Callable[[], list[np.ndarray]], alpha: float, least: int, seed: int
) -> Population:
    """Return the first draw in which every client has at least `least` records."""
    if not alpha > 0:  # so NaN is refused too
        raise ValueError(f"`alpha` must be positive, got {shown(alpha)}.")
    least = as_positive_int("least", least)
    for _ in range(_DRAWS):
        parts = draw()
        if min(map(len, parts)) >= least:
            return _population(parts, seed)
    raise ValueError(
        f"`least` is {least}: in {_DRAWS} draws with `alpha` {alpha} some client "
        "always had fewer records."
    )


def _population(parts: Sequence[np.ndarray], seed: int) -> Population:
    """Make a population of clients that have no names of their own."""
    # Sorted, since the order in which records were dealt out says nothing:
    # each round draws an order of its own.
    records = tuple(np.sort(part) for part in parts)
    return Population(records, tuple(f"client {i}" for i in range(len(parts))), seed)

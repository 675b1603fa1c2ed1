"""What each client has of its own, on the host: a round moves that of its clients alone.

A device then holds what the clients of a round need, whatever number of clients there is. A
client that has never taken part costs nothing: it shares the first state with all such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PartyState, PyTree
from jsplit.core.donation import refuse_used_up
from jsplit.core.federation import Clients, Federation
from jsplit.core.frozen import divided, joined
from jsplit.core.keys import is_key
from jsplit.core.secret_keys import drawn
from jsplit.populations.round import Round
from jsplit.rounds.algorithm import Algorithm
from jsplit.rounds.host_rows import (
    HostRows,
    as_numpy,
    put_rows,
    rows_on_host,
    take_rows,
)
from jsplit.rounds.inputs import check_clients, check_round
from jsplit.rounds.state import RoundInfo


def on_host(algorithm: Algorithm) -> Algorithm:
    """Make the same algorithm, with what each client has of its own on the host.

    The numbers are those of the algorithm to the bit. A round takes what its clients have,
    trains, and puts it back, so the memory of the device and the time of a round depend on
    the clients of the round, and not on how many there are. Where clients have nothing of
    their own (FedAvg, SplitFed 1), there is nothing to keep, and nothing changes.

    `run` trains rounds one by one.

    Args:
        algorithm: of `jsplit.rounds`, in one process.

    Returns:
        An algorithm whose states hold `HostRows` in the place of arrays [clients, ...]. A
        state in hand stays valid, and shares with the next all but the rows of the round.
        `jsplit.save` takes it, and a state that is restored, or made by `algorithm`.

    Raises:
        ValueError: if `algorithm` is none.

    Example:
        >>> import jax.numpy as jnp, jsplit, numpy as np, optax
        >>> low = jsplit.segment(lambda w, x: x * w, init=lambda k, x: jnp.ones(2), inputs="x")
        >>> high = jsplit.segment(lambda h: h.sum(-1), inputs="h")
        >>> topology = jsplit.vanilla(low, high, loss=lambda y, label: (y - label) ** 2)
        >>> trainer = jsplit.fused(topology, optax.sgd(0.1))
        >>> people = jsplit.population.iid(records=2000, clients=1000)
        >>> fields = {"x": np.ones((2000, 2), "f"), "label": np.ones(2000, "f")}
        >>> many = jsplit.rounds.on_host(jsplit.rounds.alone(trainer))
        >>> drawn = people.round(fields, 0, batch=2, clients=2)
        >>> state, info = many.step(many.init(0, drawn), drawn)
        >>> state.parties["client"].params["smashed"]
        HostRows(float32[1000, 2])
    """
    if not isinstance(algorithm, Algorithm):
        raise ValueError(
            f"`algorithm` must be one of jsplit.rounds, got {type(algorithm).__name__}."
        )
    recording = algorithm.recording
    return algorithm._replace(
        init=partial(_init, algorithm),
        step=partial(_step, algorithm),
        run=partial(_run, algorithm),
        evaluate=partial(_evaluate, algorithm),
        recording=recording and (lambda names: on_host(recording(names))),
    )


def _init(algorithm: Algorithm, key: jax.Array | int, round: Round) -> Federation:
    # Of one client, since all start from the same.
    check_round(round, ())
    one = algorithm.init(key, round._replace(clients=1, names=()))
    count = round.clients

    def repeat(x: PyTree) -> PyTree:
        if is_key(x):
            return jnp.repeat(x, count, 0)
        return HostRows([np.array(as_numpy(x)[0])] * count)

    parties = _map_own(repeat, one.clients, one.parties)
    for party, part in one.clients.own:
        if part == "secret":
            # Of a common secret one client could take off the noise of another.
            parties[party] = parties[party]._replace(secret=drawn(count))
    names = round.names or tuple(map(str, range(count)))
    return Federation(parties, one.server, replace(one.clients, names=names))


def _step(
    algorithm: Algorithm, state: Federation, round: Round
) -> tuple[Federation, RoundInfo]:
    state, few, those = _of_round(state, round)
    new, info = algorithm.step(few, those)
    who = round.client.tolist()
    parties = _map_own(
        partial(put_rows, who), state.clients, state.parties, new.parties
    )
    if info.recorded is not None:
        there = info.recorded._replace(client=jnp.asarray(round.client))
        info = info._replace(recorded=there)
    return Federation(parties, new.server, state.clients), info


def _run(
    algorithm: Algorithm, state: Federation, rounds: Iterable[Round]
) -> tuple[Federation, RoundInfo]:
    infos: list[RoundInfo] = []
    for one in rounds:
        state, info = _step(algorithm, state, one)
        infos.append(info)
    if not infos:
        raise ValueError("`rounds` must be several of equal shapes, got none.")
    return state, jax.tree.map(lambda *x: jnp.stack(x), *infos)


def _evaluate(
    algorithm: Algorithm,
    state: Federation,
    round: Round,
    *,
    noise: jax.Array | None = None,
) -> RoundInfo:
    _, few, those = _of_round(state, round)
    return algorithm.evaluate(few, those, noise=noise)


def _of_round(state: Federation, round: Round) -> tuple[Federation, Federation, Round]:
    """The state by rows, that of the clients of a round alone, and the round of these."""
    check_round(round, ())
    # Also a state that was used up has shapes.
    refuse_used_up(state)
    clients = state.clients
    own = [*_own_leaves(clients, state.parties)]
    check_clients(round, own, clients.names)
    # A state of the algorithm itself, or one that was read, has arrays.
    parties = _map_own(rows_on_host, clients, state.parties)
    who = round.client.tolist()
    names = tuple(round.names[k] if round.names else str(k) for k in who)
    few = _map_own(partial(take_rows, who), clients, parties)
    those = round._replace(
        client=np.arange(len(who), dtype=np.int32), clients=len(who), names=names
    )
    small = Federation(few, state.server, replace(clients, names=names))
    return Federation(parties, state.server, clients), small, those


def _own_leaves(
    clients: Clients, parties: Mapping[str, PartyState]
) -> Iterator[PyTree]:
    for party, part in clients.own:
        own, _ = _apart(clients, party, part, getattr(parties[party], part))
        yield from jax.tree.leaves(own)


def _map_own(
    change: Callable[..., PyTree],
    clients: Clients,
    parties: Mapping[str, PartyState],
    *others: Mapping[str, PartyState],
) -> dict[str, PartyState]:
    """Change every array that each client has of its own; all else is of the last given."""
    last = others[-1] if others else parties
    found = dict(last)
    for party, part in clients.own:
        trees = [getattr(x[party], part) for x in (parties, *others)]
        own = [_apart(clients, party, part, x)[0] for x in trees]
        _, fixed = _apart(clients, party, part, trees[-1])
        new = jax.tree.map(change, *own)
        for node, frozen in fixed.items():
            new = {**new, node: joined(new[node], frozen)}
        found[party] = found[party]._replace(**{part: new})
    return found


def _apart(
    clients: Clients, party: str, part: str, value: PyTree
) -> tuple[PyTree, dict[str, PyTree]]:
    """What each client has of its own of a part, and by node what no step changes."""
    fixed: dict[str, PyTree] = {}
    for x in clients.shared:
        if x[:2] == (party, part):
            own, fixed[x.node] = divided(x.changes, value[x.node])
            value = {**value, x.node: own}
    return value, fixed

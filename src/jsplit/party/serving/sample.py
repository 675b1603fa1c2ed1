"""A small session with a party that serves, for the examples in docstrings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax.numpy as jnp
import optax

from jsplit.party.compute.local import Local
from jsplit.party.contract.draft import agreement
from jsplit.party.contract.sample import without_parameters
from jsplit.party.serving.remote import RemoteSession
from jsplit.party.serving.serve import serve
from jsplit.party.serving.session import session
from jsplit.topology.configurations import vanilla
from jsplit.wire.certs import PlaintextWithoutIdentity
from jsplit.wire.memory import MemoryTransport


@contextmanager
def sample_session() -> Iterator[RemoteSession]:
    """A session of records with a server in a thread: `y = x * x + 1`.

    Yields:
        The session, of the field `x`, float32 [record, 1].
    """
    topology = vanilla(
        without_parameters(lambda x: x * x, "x", "h"),
        without_parameters(lambda h: h + 1, "h", "y"),
        loss=optax.squared_error,
    )
    batch = {"x": jnp.ones((4, 1)), "label": jnp.ones((4, 1))}
    agreed = agreement(topology, batch, steps=10, addresses={"server": "server:1"})
    hub, stop = MemoryTransport(), threading.Event()

    def state_of(party: str, **fields: jnp.ndarray):
        return Local(agreed, party, topology).init(fields)

    def work() -> None:
        serve(
            agreed,
            "server",
            topology,
            credentials=PlaintextWithoutIdentity("server"),
            stop=stop,
            state=state_of("server", label=batch["label"]),
            transport=hub,
        )

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        with session(
            agreed,
            "client",
            topology,
            credentials=PlaintextWithoutIdentity("client"),
            state=state_of("client", x=batch["x"]),
            transport=hub,
        ) as made:
            yield made
    finally:
        stop.set()
        thread.join()

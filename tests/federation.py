"""Parties in threads of one process, each with its own connections, for the tests; and a proxy that makes trouble."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsplit import party
from jsplit.wire.certs import Credentials, authority

LONG = 90.0
"""Seconds after which a test gives up on parties that do not come to an end."""


@cache
def trust_of(names: tuple[str, ...]) -> dict[str, Credentials]:
    return authority(names)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def optimizers(topology) -> dict[str, Any]:
    """Every party has its own, so that mixing them up shows."""
    return {p: optax.adam(0.01 * (i + 1)) for i, p in enumerate(topology.parties)}


def agreed_for(problem, *, steps=5, listens=None, **options) -> party.Agreement:
    """An agreement on a problem of the table; by default only the last party listens."""
    listens = listens or [problem.topology.parties[-1]]
    addresses = {p: f"127.0.0.1:{free_port()}" for p in listens}
    options = {"seed": 3, "patience": 30.0} | options
    return party.agreement(problem.topology, problem.batch, steps=steps, addresses=addresses, **options)


def own_of(problem, name: str, record: slice | None = None) -> dict[str, np.ndarray]:
    held = problem.topology.holds.get(name, ())
    return {f: problem.batch[f][record] if record else problem.batch[f] for f in held}


def together(names, work: Callable[[str], Any]) -> dict[str, Any]:
    """`work(party)` of all parties at once; what each gives, or raises."""
    found: dict[str, Any] = {}

    def one(name):
        try:
            found[name] = work(name)
        except BaseException as error:  # handed to the test
            found[name] = error

    threads = [threading.Thread(target=one, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    end = time.monotonic() + LONG
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    assert found.keys() == set(names), f"{set(names) - found.keys()} did not come to an end"
    return found


def train(agreed, problem, **options) -> dict[str, Any]:
    """All parties train, on the one batch of the problem; `options` may be functions of the party."""
    trust, rates = trust_of(agreed.parties), optimizers(problem.topology)

    def one(name):
        given = {k: v(name) if k in ("checkpoint", "on_step", "stop", "addresses", "own") else v for k, v in options.items()}
        given = {"own": problem.topology} | given
        own = given.pop("own")
        batch = own_of(problem, name)
        return party.run(
            agreed, name, own, lambda step: batch, credentials=trust[name], optimizer=rates[name], remind=0.5, **given
        )  # fmt: skip

    return together(agreed.parties, one)


def checked(results: dict[str, Any]) -> dict[str, party.Result]:
    """The results, if all came to a good end."""
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return results


def bits(state) -> list[bytes]:
    keys = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return [np.asarray(keys(x)).tobytes() for x in jax.tree.leaves(state)]


class Proxy:
    """Stands between those that dial and one that listens; cuts connections, swallows what is said, or holds it up."""

    def __init__(self, port: int, seed: int = 0):
        self.to, self.rng = port, random.Random(seed)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.lock, self.faults = threading.Lock(), 0
        self.swallow: set[socket.socket] = set()
        self.delay = 0.0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to), 5)
            except OSError:
                near.close()
                continue
            with self.lock:
                self.pairs.append((near, far))
            for a, b in ((near, far), (far, near)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    def pump(self, a: socket.socket, b: socket.socket) -> None:
        try:
            while data := a.recv(1 << 16):
                if self.delay:
                    time.sleep(self.delay)
                if a not in self.swallow:
                    b.sendall(data)
        except OSError:
            pass
        finally:
            for s in (a, b):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def fault(self, kind: str | None = None) -> str:
        """One fault on one connection: `cut` it, or `swallow` what one side says for a while and cut it, or `delay` all."""
        kind = kind or self.rng.choice(["cut", "cut", "swallow", "delay"])
        with self.lock:
            pair = self.rng.choice(self.pairs[-4:]) if self.pairs else None
        if pair is None:
            return "none"
        self.faults += 1
        if kind == "delay":
            self.delay = 0.02
            time.sleep(0.1)
            self.delay = 0.0
            return kind
        if kind == "swallow":
            self.swallow.add(self.rng.choice(pair))
            time.sleep(0.05)
        for s in pair:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        return kind

    def close(self) -> None:
        self.server.close()
        with self.lock:
            for pair in self.pairs:
                for s in pair:
                    s.close()

"""Parties in threads of one process, each with its own connections, for the tests; and
a proxy that makes trouble.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from jsplit import party
from jsplit.wire.certs import Credentials, authority

MAKING = threading.Lock()
IDS_KEY = b"of those who hold records alone"
LONG = 90.0
"""Seconds after which a test gives up on parties that do not come to an end."""


def layer(inputs, name, out=4):
    """A small dense layer as a plain function: quick to compile, so that processes start soon."""

    def init(key, *x):
        keys = jax.random.split(key, len(x))
        return [
            jax.random.normal(k, (v.shape[-1], out)) * 0.5
            for k, v in zip(keys, x, strict=True)
        ]

    def apply(weights, *x):
        return jnp.tanh(sum(v @ w for v, w in zip(x, weights, strict=True)))

    return jsplit.segment(apply, init=init, inputs=inputs, name=name)


def adapted():
    """A frozen layer, which has an adapter beside it."""

    def init(key, x):
        base, adapter = jax.random.normal(key, (2, x.shape[-1], 4)) * 0.5
        return {"base": base, "adapter": adapter}

    def apply(weights, x):
        return jnp.tanh(x @ weights["base"] + x @ weights["adapter"])

    return jsplit.segment(apply, init=init, inputs=["x"], name="h", trainable="adapter")


class Small(NamedTuple):
    topology: jsplit.Topology
    batch: dict[str, np.ndarray]


def small(configuration: str = "vertical") -> Small:
    """A small topology of plain functions; `"pair"`, `"vertical"`, or `"chain"` with
    one listener, so that two are relayed; `"adapters"` is a pair whose client has a
    frozen base.
    """
    rng = np.random.default_rng(0)
    squares = lambda y, label: (y - label) ** 2  # noqa: E731
    if configuration == "vertical":
        bottoms = {"lab": layer(["x"], "left"), "clinic": layer(["z"], "right")}
        topology = jsplit.vertical(
            bottoms, layer(["left", "right"], "y", 1), loss=squares
        )
        fields = ("x", "z")
    elif configuration == "pair":
        topology, fields = (
            jsplit.vanilla(layer(["x"], "h"), layer(["h"], "y", 1), loss=squares),
            ("x",),
        )
    elif configuration == "adapters":
        topology, fields = (
            jsplit.vanilla(adapted(), layer(["h"], "y", 1), loss=squares),
            ("x",),
        )
    else:
        chain = {
            "one": layer(["x"], "a"),
            "two": layer(["a"], "b"),
            "three": layer(["b"], "y", 1),
        }
        topology, fields = jsplit.multihop(chain, loss=squares), ("x",)
    batch = {f: rng.normal(size=(8, 3)).astype(np.float32) for f in fields}
    return Small(
        topology, batch | {"label": rng.normal(size=(8, 1)).astype(np.float32)}
    )


def undisturbed(problem, steps: int, seed: int = 3):
    """The states of all parties after so many steps in one process."""
    trainer = jsplit.messages(problem.topology, optimizers(problem.topology))
    state = trainer.init(seed, problem.batch)
    for _ in range(steps):
        state, _ = trainer.step(state, problem.batch)
    return state.parties


@cache
def made(names: tuple[str, ...]) -> dict[str, Credentials]:
    return authority(names)


def trust_of(names: tuple[str, ...]) -> dict[str, Credentials]:
    """Credentials of all these parties, by one authority."""
    with MAKING:
        return made(names)


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
    return party.agreement(
        problem.topology, problem.batch, steps=steps, addresses=addresses, **options
    )


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

    threads = [
        threading.Thread(target=one, args=(name,), daemon=True) for name in names
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + LONG
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0))
    assert found.keys() == set(names), (
        f"{set(names) - found.keys()} did not come to an end"
    )
    return found


def own_options(options: dict[str, Any], name: str, by_name) -> dict[str, Any]:
    """The options of a party, of which those `by_name` are functions of it."""
    return {k: v(name) if k in by_name else v for k, v in options.items()}


def train(agreed, problem, **options) -> dict[str, Any]:
    """All parties train, on the one batch of the problem; `options` may be functions of
    the party.
    """
    trust, rates = trust_of(agreed.parties), optimizers(problem.topology)

    def one(name):
        given = {"own": problem.topology} | own_options(
            options, name, ("checkpoint", "on_step", "stop", "addresses", "own")
        )
        own = given.pop("own")
        batch = own_of(problem, name)
        return party.run(
            agreed,
            name,
            own,
            lambda step: batch,
            credentials=trust[name],
            optimizer=rates[name],
            remind=0.5,
            **given,
        )

    return together(agreed.parties, one)


def train_in_memory(
    agreed, problem, rates=None, data=own_of, transport=None, **options
) -> dict[str, Any]:
    """All parties train over the memory transport, without certificates.

    `rates` are optimizers by party; `data(problem, party)` is a batch, or `batch(step)`.
    """
    rates = optimizers(problem.topology) if rates is None else rates
    transport = party.MemoryTransport() if transport is None else transport

    def one(name):
        given = data(problem, name)
        return party.run(
            agreed,
            name,
            problem.topology,
            given if callable(given) else lambda step: given,
            credentials=party.PlaintextWithoutIdentity(name),
            optimizer=rates.get(name),
            remind=0.2,
            transport=transport,
            **own_options(options, name, ("checkpoint",)),
        )

    return together(agreed.parties, one)


def checked(results: dict[str, Any]) -> dict[str, party.Result]:
    """The results, if all came to a good end."""
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return results


def bits(state) -> list[bytes]:
    def plain(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    return [np.asarray(plain(x)).tobytes() for x in jax.tree.leaves(state)]


class Others:
    """In the place of all others: gives the same values whatever is sent, at once or
    only when they are waited for.
    """

    def __init__(self, local, size, late):
        self.local, self.size, self.late, self.log, self.came, self.sent = (
            local,
            size,
            late,
            [],
            set(),
            [],
        )

    def send(self, wire, step, micro, arrays):
        self.log.append(("send", step, micro))
        self.sent.append([np.array(x) for x in arrays])

    def there(self, wire, step, micro):
        return not self.late or (wire, step, micro) in self.came

    def wait(self, wanted):
        assert wanted and not any(self.there(*w) for w in wanted)
        self.log.append(("wait", *wanted[0][1:]))
        self.came.add(wanted[0])

    def take(self, wire, step, micro):
        self.log.append(("take", step, micro))
        like = jax.tree.leaves(self.local.like(wire, self.size)[0])
        return [
            np.random.default_rng([wire, step, micro])
            .normal(size=x.shape)
            .astype(x.dtype)
            for x in like
        ]


class Proxy:
    """Stands between those that dial and one that listens; cuts connections, swallows
    what is said, or holds it up.
    """

    def __init__(self, port: int, seed: int = 0):
        self.to, self.rng = port, random.Random(seed)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.every: list[socket.socket] = []
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
                self.every += [near, far]
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

    def alive(self) -> list[tuple[socket.socket, socket.socket]]:
        with self.lock:
            self.pairs = [p for p in self.pairs if all(s.fileno() >= 0 for s in p)]
            return list(self.pairs)

    def cut(self) -> None:
        """Cut all connections, at whatever byte they are."""
        self.faults += 1
        for pair in self.alive():
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        with self.lock:
            self.pairs.clear()

    def deafen(self) -> None:
        """What the listener says on its connections is swallowed from now on."""
        self.swallow.update(far for _, far in self.alive())

    def hold(self, seconds: float) -> None:
        """What is said from now on arrives so much later, until it is set to 0 again."""
        self.faults += seconds > 0
        self.delay = seconds

    def close(self) -> None:
        self.server.close()
        with self.lock:
            for s in self.every:
                s.close()

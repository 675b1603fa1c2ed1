"""Thirty hospitals in turn on one machine: what does a first turn take, beside later ones?

Each party is a thread of one process and connects over the memory transport, so that what
is measured is jsplit and not thirty starts of Python. A client's turn includes that what
the one before has learned is handed over to it. With it: how many crossings there are,
how long it takes until the first step, and the memory of the process.

    python experiments/network/many_in_turn.py           # 30 clients
    python experiments/network/many_in_turn.py 100
"""

from __future__ import annotations

import resource
import statistics
import sys
import threading
import time

import jax
import numpy as np
import optax

import jsplit

ROUNDS, WIDTH, BATCH = 4, 256, 32


def layer(inputs: str, name: str, out: int) -> jsplit.Segment:
    """A dense layer as a plain function."""

    def init(key, x):
        return jax.random.normal(key, (x.shape[-1], out)) / WIDTH**0.5

    def apply(w, x):
        return jax.numpy.tanh(x @ w)

    return jsplit.segment(apply, init=init, inputs=inputs, name=name)


def agreed_for(clients: int, topology: jsplit.Topology, batch: dict):
    """Every client trains for one step, over and over."""
    names = [f"c{i:03}" for i in range(clients)]
    turns = jsplit.party.turns(
        {name: {"client": name} for name in names}, [(name, 1) for name in names]
    )
    return jsplit.party.agreement(
        topology,
        batch,
        steps=ROUNDS * clients,
        addresses={"server": "localhost:8476"},
        turns=turns,
        checkpoint=clients,
    )


def measure(clients: int) -> None:
    """Train once, and print what it took."""
    topology = jsplit.vanilla(
        layer("x", "h", WIDTH), layer("h", "y", 1), loss=optax.squared_error
    )
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(size=(BATCH, WIDTH)).astype(np.float32),
        "label": np.zeros((BATCH, 1), np.float32),
    }
    agreed = agreed_for(clients, topology, batch)
    hub, ended = jsplit.party.MemoryTransport(), {}

    def run(name: str) -> None:
        own = {"label": batch["label"]} if name == "server" else {"x": batch["x"]}
        jsplit.party.run(
            agreed,
            name,
            topology,
            lambda step: own,
            optimizer=optax.adam(1e-3),
            credentials=jsplit.party.PlaintextWithoutIdentity(name),
            transport=hub,
            on_step=lambda m: ended.setdefault((name, m.step), time.perf_counter()),
        )

    began = time.perf_counter()
    threads = [threading.Thread(target=run, args=(p,)) for p in agreed.parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    at = [ended["server", step] for step in range(1, agreed.steps + 1)]
    turns = np.diff(at)
    first, later = turns[: clients - 1], turns[clients - 1 :]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{clients} clients, {len(agreed.turns.crossings(agreed.wires))} crossings")
    print(f"until the first step ended: {at[0] - began:.2f} s, {memory:.0f} MB")
    for name, each in (("first", first), ("later", later)):
        print(
            f"{name} turns: median {1e3 * statistics.median(each):.1f} ms, "
            f"slowest {1e3 * max(each):.1f} ms"
        )
    print(f"medians: {statistics.median(first) / statistics.median(later):.2f} times")


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 30)

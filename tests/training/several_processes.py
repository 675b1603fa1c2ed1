"""One of two processes that train by `messages`, the hospital in the first and the server in the
second; run by `test_processes.py`.
"""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import optax
from flax import nnx

import jsplit

RECORDS = 8


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        # No bias, whose gradient BatchNorm makes rounding alone: Adam would step by it.
        self.low = nnx.Linear(3, 4, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop, self.top = nnx.Dropout(0.2, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.top(jsplit.cut(self.drop(self.norm(self.low(x))), "smashed"))


def batch(number):
    rng = np.random.default_rng(number)
    x = rng.normal(size=(RECORDS, 3)).astype("float32")
    return {"x": x, "label": rng.integers(0, 2, RECORDS).astype("int32")}


def trained(mesh=None, steps=3):
    parts = jsplit.split(Net(nnx.Rngs(0)), batch(0)["x"])
    loss = optax.softmax_cross_entropy_with_integer_labels
    topology = jsplit.vanilla(*parts.values(), loss=loss)
    trainer = jsplit.messages(topology, optax.adam(0.1), mesh=mesh)
    state, losses = trainer.init(0, batch(0)), []
    for number in range(steps):
        state, info = trainer.step(state, batch(number))
        losses.append(float(info.loss))
    losses.append(float(trainer.evaluate(state, batch(9)).loss))
    bad = {**batch(0), "x": np.full((RECORDS, 3), np.nan, "float32")}
    try:
        trainer.step(state, bad)
    except jsplit.NotFinite as error:
        return state, losses, str(error)
    return state, losses, "nothing was refused"


def numbers(tree):
    return [np.asarray(x).tolist() for x in jax.tree.leaves(tree)]


def main(number, port, devices):
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # A port of its own for each: with port 0 receivers wait for ever.
    own = f"127.0.0.1:{port + 1 + number}"
    jax.config.update("jax_cross_host_transfer_socket_address", own)
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
    meshes = {
        party: jax.sharding.Mesh(
            np.array([d for d in jax.devices() if d.process_index == k]), ("batch",)
        )
        for k, party in enumerate(("client", "server"))
    }
    state, losses, refused = trained(meshes)
    # What a party has is at its process alone.
    mine = state.parties["client" if number == 0 else "server"]
    said = {"losses": losses, "refused": refused}
    said["params"], said["state"] = numbers(mine.params), numbers(mine.state)
    print(json.dumps(said))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

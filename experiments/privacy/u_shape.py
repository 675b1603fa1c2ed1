"""Feature-space hijacking in a U-shape: the body sends the client a cotangent of its own.

The client trains bottom and head of digits as it does in any U-shape. The party between them
runs no part of the network: what it gives the head is a piece of what came, and what it gives
the bottom is the cotangent of a discriminator. Its networks are kept where a segment keeps its
statistics, so that a step of the honest trainer is a step of the hijacker's (Pasquini et al.
2021, https://arxiv.org/abs/2012.02670, which says it of a server with the labels alone).

    python experiments/privacy/u_shape.py --data mnist.npz --limit 6000 --hijack 2000
"""

from __future__ import annotations

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from experiments.common.harness import positive
from experiments.privacy.inputs import bottom, halves
from jsplit.privacy import hijack, reconstruction

EVERY = 250  # steps between two looks
CHANNELS = 8  # of what came that are handed to the head


def handed(h: jax.Array) -> jax.Array:
    """A piece of an activation, which the head gets."""
    return h[..., :CHANNELS].reshape(len(h), -1)


def honest():
    """What was agreed on: channels weighted, and some of them handed on."""

    def apply(weight, h: jax.Array) -> jax.Array:
        return handed(h * weight)

    def init(key: jax.Array, h: jax.Array):
        return jnp.ones(h.shape[-1])

    return jsplit.segment(apply, init=init, inputs=["smashed"], name="middle")


def head():
    """The client's: one linear layer."""

    def init(key: jax.Array, h: jax.Array):
        return jax.random.normal(key, (h[0].size, 10)) / h[0].size ** 0.5

    return jsplit.segment(
        lambda w, h: h @ w, init=init, inputs=["middle"], name="output"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="digits", help="of pictures")
    parser.add_argument("--limit", type=positive, default=2000, help="records")
    parser.add_argument("--hijack", type=positive, default=300, help="steps")
    options = parser.parse_args()
    data = halves(options.data, options.limit)
    (x, y), (public, _) = data["private"], data["public"]
    x, public = 2 * x - 1, 2 * public - 1
    quick = x.shape[1] < 16
    rate = 1e-3 if quick else 1e-4
    part = bottom("conv 2", widths=(16, 32) if quick else (32, 64))
    params, _ = part.init(jax.random.key(0), x[:2])
    h, _ = part.apply(params, {}, None, x[:2])
    hijacker = hijack(
        *(h.shape[1:], x.shape[1:], handed),
        inputs=["smashed", "public"],
        name="middle",
        width=16 if quick else 32,
        data_range=(-1, 1),
        positive=True,  # what comes has been through a relu
        learning_rate=rate,
        learning_rate_judge=rate,
    )
    agreed = jsplit.u_shaped(
        *(part, honest(), head()),
        loss=optax.softmax_cross_entropy_with_integer_labels,
    )
    # Proven to be the same to the client: what crosses, and in which shapes.
    topology = agreed.replace(
        "server",
        [jsplit.Node(*("middle", hijacker.segment, "server", ["smashed", "public"]))],
        holds=["public"],
    )
    trainer = jsplit.fused(topology, optax.adam(rate))
    rng = np.random.default_rng(0)

    def drawn():
        mine, other = rng.choice(len(x), 64), rng.choice(len(public), 64)
        return {"record": x[mine], "label": y[mine], "public": public[other]}

    @jax.jit
    def guess(params, own, record):
        h, _ = part.apply(params, {}, None, record, train=False)
        return hijacker.reconstructed(own, h).clip(-1, 1)

    state = trainer.init(0, drawn())
    for number in range(options.hijack + 1):
        if number % EVERY == 0 or number == options.hijack:
            sides = state.parties["client"].params["smashed"]
            own = state.parties["server"].state["middle"]
            found = partial(guess, sides, own)
            few = x[:1024]
            measured = reconstruction(
                few,
                found(few),
                jax.random.key(0),
                data_range=(-1, 1),
                mean=public.mean(0),
            )
            alike = measured.ssim.value if measured.ssim else float("nan")
            print(
                f"after {number} steps: MSE {measured.mse}, SSIM {alike:.3f}, mean of "
                f"public records {measured.floor.value:.4f}",
                flush=True,
            )
        if number < options.hijack:
            state, _ = trainer.step(state, drawn())


if __name__ == "__main__":
    main()

"""Traffic for the laws of attacks on labels: of a trained split, and of known distributions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jsplit
from jsplit.privacy import Traffic


def dense(sizes, inputs, name=None):
    """Dense layers with relu between, drawn from the key that they start from."""

    def init(key, h):
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(keys, sizes, sizes[1:], strict=False)
        return [
            (jax.random.normal(k, (a, b)) / np.sqrt(a), jnp.zeros(b))
            for k, a, b in pairs
        ]

    def apply(params, h):
        for w, b in params[:-1]:
            h = jax.nn.relu(h @ w + b)
        w, b = params[-1]
        return h @ w + b

    return jsplit.segment(apply, init=init, inputs=[inputs], name=name)


def loss_of_one_logit(output, label):
    return optax.sigmoid_binary_cross_entropy(output[:, 0], label.astype("float32"))


LOSS_OF_CLASSES = optax.softmax_cross_entropy_with_integer_labels


def trained(loss, classes, *, steps=12, size=128, outputs=1, top=(8,), seed=0):
    """What came to the client of a vanilla split in each step, with the truth.

    Labels are rare where there are two: a quarter is of class 1.
    """
    rng = np.random.default_rng(seed)
    weights = [1 - 0.25, 0.25] if classes == 2 else None
    label = rng.choice(classes, steps * size, p=weights).astype("int32")
    centre = rng.normal(size=(classes, 6))
    record = (centre[label] + rng.normal(size=(len(label), 6))).astype("float32")
    bottom = dense([6, 8], "record", "smashed")
    head = dense([*top, outputs], "smashed", "output")
    topology = jsplit.vanilla(bottom, head, loss=loss)
    batches = [
        {"record": record[i : i + size], "label": label[i : i + size]}
        for i in range(0, len(label), size)
    ]
    trainer = jsplit.fused(topology, optax.adam(1e-2))
    state = trainer.init(seed, batches[0])

    @jax.jit
    def seen(state, batch):
        params = {n: p for own in state.parties.values() for n, p in own.params.items()}
        h, _ = bottom.apply(params["smashed"], {}, None, batch["record"])

        def of(h):
            return loss(
                head.apply(params["output"], {}, None, h)[0], batch["label"]
            ).mean()

        return h, jax.grad(of)(h)

    # What a model sends that has learned nothing yet is another matter.
    for batch in batches * 3:
        state, _ = trainer.step(state, batch)
    pairs = []
    for batch in batches:
        pairs.append(seen(state, batch))
        state, _ = trainer.step(state, batch)
    h, cotangent = (jnp.concatenate(x) for x in zip(*pairs, strict=True))
    step = np.repeat(np.arange(steps), size)
    traffic = Traffic(
        "client", step, returned={"smashed": cotangent}, sent={"smashed": h}
    )
    return traffic, label


def of_cotangents(x, step=None):
    """Traffic that is these cotangents alone, [records, numbers]."""
    step = np.zeros(len(x), int) if step is None else step
    return Traffic("client", step, returned={"h": jnp.asarray(x, "float32")})

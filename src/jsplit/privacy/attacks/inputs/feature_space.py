"""Feature-space hijacking: a malicious server makes the client's bottom its own encoder.

It sends not the cotangent of the task but that of a discriminator between the client's
activations and those of an encoder that it can invert.
"""

from __future__ import annotations

import logging
from functools import cache, partial
from time import perf_counter

import jax
import jax.numpy as jnp
import optax

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.attack import key_or_default
from jsplit.privacy.attacks.inputs.fitting import CHUNK, outputs, squared
from jsplit.privacy.attacks.inputs.hijackers import Hijackers, hijackers_for
from jsplit.privacy.attacks.inputs.hijacking import (
    Client,
    Hijacker,
    Own,
    Penalty,
    check_hijacker,
    compiled_step,
    start_client,
    start_hijacker,
)
from jsplit.privacy.attacks.inputs.inversion import (
    Inversion,
    Range,
    clipped,
    inverted,
)
from jsplit.privacy.attacks.inputs.networks import checked
from jsplit.privacy.attacks.inputs.seen import in_both, public_of
from jsplit.privacy.measures.images import within
from jsplit.privacy.measures.records import array_of
from jsplit.privacy.scores import Adversary, Budget

SOURCE = "Pasquini et al., Unleashing the tiger, 2021"
log = logging.getLogger("jsplit")

DRAWS = 3  # of parameters, to see whether a bottom can give what is negative
LOOKS = 4  # how often on the way the error is measured


def fsha(
    bottom: Segment,
    record: PyTree,
    public: PyTree,
    *,
    party: str = "server",
    optimizer: optax.GradientTransformation | None = None,
    penalty: Penalty | None = None,
    networks: Hijackers | None = None,
    width: int = 64,
    data_range: Range | None = None,
    steps: int = 2000,
    batch: int = 64,
    learning_rate: float = 1e-4,
    learning_rate_judge: float = 1e-4,
    gradient_penalty: float = 500.0,
    target: str = "record",
    key: jax.Array | None = None,
) -> Inversion:
    """Hijack a client's training, and reconstruct its records.

    An active adversary: the party that returns the client's cotangent, with public
    records. The client trains as it always does, and all that the hijacker has of it are
    activations. Nothing here needs the client's loss, so whoever runs the body of a
    U-shape can do the same: it need not derive what it sends back from what came.

    Of MNIST a step of 64 records takes a third of a second on two CPU cores.

    Args:
        bottom: the client's segment, of one input.
        record: the client's records, [records, ...], on which it trains.
        public: records of the same kind, [public, ...].
        party: who the hijacker is.
        optimizer: the client's; by default Adam of 1e-4. The authors have 1e-5, for
            both sides, and 10,000 steps.
        penalty: `penalty(record, h)`, a number that the client adds to its loss, as
            a defence.
        networks: the hijacker's; by default convolutions for pictures, else dense
            layers, with which this attack is published nowhere.
        width: channels of the first convolution of those.
        data_range: the smallest and the largest value of a record, for PSNR, SSIM and
            the hijacker's decoder, which ends in it. Give it: without it what is
            reconstructed of MNIST is twice as far off. The authors' pictures are in
            (-1, 1).
        steps: of the client's training.
        batch: records a step, of the client and of the hijacker.
        learning_rate: of the hijacker's Adam on encoder and decoder.
        learning_rate_judge: of that on its discriminator.
        gradient_penalty: weight of that of the discriminator.
        target: the name of the field, for the score.
        key: a PRNG key.

    Returns:
        The MSE after the last step, and the reconstructions. `control` is that of the
        same decoder on a bottom that was not hijacked, `chance` that of the mean of
        public records. `more` has "MSE after n steps" on the way, which the logger
        "jsplit" tells too as they come.

    Raises:
        ValueError: if there are no public records, shapes do not fit, records are not
            finite, or a rate is not positive and finite.

    References:
        Pasquini, Ateniese and Bernaschi, `Unleashing the tiger: inference attacks on
        split learning <https://arxiv.org/abs/2012.02670>`_, 2021, and the authors'
        code; Gulrajani et al., `Improved training of Wasserstein GANs
        <https://arxiv.org/abs/1704.00028>`_, 2017.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from jsplit.privacy import fsha
        >>> draw = lambda key, x: jax.random.normal(key, (4, 3))
        >>> bottom = jsplit.segment(lambda w, x: x @ w, init=draw, inputs=["x"])
        >>> x = jax.random.normal(jax.random.key(0), (60, 4))
        >>> found = fsha(bottom, x[:30], x[30:], steps=2, width=2)
        >>> found.score.adversary.active, found.reconstructed.shape
        (True, (30, 4))
    """
    start = perf_counter()
    key = key_or_default(key)
    for name, count in {"steps": steps, "batch": batch, "width": width}.items():
        as_positive_int(name, count)
    rates = learning_rate, learning_rate_judge
    check_hijacker(*rates, gradient_penalty)
    truth = array_of("record", record)
    others = public_of(public, truth)
    if data_range is not None:
        within(truth, data_range)
    first, second, order = jax.random.split(key, 3)
    client = Client(bottom, optimizer or _adam(1e-4), penalty)
    theirs = before = start_client(client, truth, first)
    h = _activations(client, theirs, truth)
    never = _never_negative(bottom, theirs, truth[:CHUNK], first)
    nets = _networks(networks, truth, h, width, data_range, never)
    hijacker = Hijacker(nets, rates, gradient_penalty)
    own = start_hijacker(hijacker, others, h, second)
    theirs, own, way = _trained(
        *(client, hijacker, theirs, own, truth, others, order),
        steps=steps,
        batch=batch,
        data_range=data_range,
    )
    guess = _guess(client, nets, theirs, own, truth)
    budget = Budget(steps, len(truth), perf_counter() - start)
    adversary = _adversary(party, len(others))
    return inverted(
        "FSHA",
        target,
        adversary,
        budget,
        truth,
        guess,
        _guess(client, nets, before, own, truth),
        mean=others.mean(0),
        data_range=data_range,
        key=jax.random.fold_in(key, 1),
        public=others,
        more=way | {"in public": in_both(truth, others)},
    )


def _adversary(party: str, public: int) -> Adversary:
    """Who hijacks."""
    knows = f"{public} records of the same kind; it sends cotangents of its own"
    return Adversary(party, knows, True, public, source=SOURCE)


def _trained(
    client: Client,
    hijacker: Hijacker,
    theirs: Own,
    own: Own,
    record: jax.Array,
    public: jax.Array,
    order: jax.Array,
    *,
    steps: int,
    batch: int,
    data_range: Range | None,
) -> tuple[Own, Own, dict[str, float]]:
    """Both sides after a hijacked training, and errors on the way."""
    step = compiled_step(client, hijacker)
    every, way, few = max(1, steps // LOOKS), {}, record[:CHUNK]
    # A loop of Python over one compiled step: in a scan convolutions are slow on a CPU.
    for number in range(steps):
        if number % every == 0:
            guess = _guess(client, hijacker.nets, theirs, own, few)
            error = squared(clipped(guess, data_range), few).mean()
            way[f"MSE after {number} steps"] = float(error)
            log.info("FSHA: after %d of %d steps: MSE %.4f", number, steps, error)
        mine, other, seed = _draws(order, number, batch, len(record), len(public))
        theirs, own = step(theirs, own, record[mine], public[other], seed)
    return theirs, own, way


def _networks(
    networks: Hijackers | None,
    truth: jax.Array,
    h: jax.Array,
    width: int,
    data_range: Range | None,
    positive: bool,
) -> Hijackers:
    """The hijacker's networks, those given or those for these shapes."""
    nets = networks or hijackers_for(
        *(h.shape[1:], truth.shape[1:], width, data_range, positive)
    )
    checked("networks.encoder", nets.encoder, truth, h.shape[1:])
    checked("networks.decoder", nets.decoder, h, truth.shape[1:])
    checked("networks.discriminator", nets.discriminator, h, (1,))
    return nets


def _never_negative(
    bottom: Segment, theirs: Own, record: jax.Array, key: jax.Array
) -> bool:
    """Whether activations are never negative, whatever the parameters, as after a relu.

    Those of the first parameters do not tell: of zeros all are 0, and of weights and
    records above 0 none is negative. So parameters are drawn around them.
    """
    leaves, structure = jax.tree.flatten(theirs.params)
    for one in jax.random.split(key, DRAWS):
        drawn = [
            x + (1 + jnp.abs(x)) * jax.random.normal(k, x.shape, x.dtype)
            if jnp.issubdtype(x.dtype, jnp.floating)
            else x
            for k, x in zip(jax.random.split(one, len(leaves)), leaves, strict=True)
        ]
        h = _forward(bottom, structure.unflatten(drawn), theirs.state, record)
        if bool((h < 0).any()):
            return False
    return True


# One optimizer of a rate, so that two attacks on the same bottom are one program.
_adam = cache(optax.adam)


def _activations(client: Client, theirs: Own, record: jax.Array) -> jax.Array:
    """What the client sends of records, as in inference."""
    parts = [
        _forward(client.bottom, theirs.params, theirs.state, record[low : low + CHUNK])
        for low in range(0, len(record), CHUNK)
    ]
    if not isinstance(parts[0], jax.Array):
        raise ValueError(
            "`bottom` must give one array: a hijacker's networks are made for its shape."
        )
    return jnp.concatenate(parts)


@partial(jax.jit, static_argnames="bottom")
def _forward(bottom, params, state, record):
    return bottom.apply(params, state, None, record, train=False)[0]


def _guess(
    client: Client, nets: Hijackers, theirs: Own, own: Own, record: jax.Array
) -> jax.Array:
    """What the hijacker takes records for, by what the client sends of them."""
    h = _activations(client, theirs, record)
    return outputs(nets.decoder, own.params[0]["decoder"], h)


@partial(jax.jit, static_argnames=("batch", "records", "public"))
def _draws(order: jax.Array, number: int, batch: int, records: int, public: int):
    """Which records a step reads, of the client's and of public ones, and its key."""
    mine, other, seed = jax.random.split(jax.random.fold_in(order, number), 3)
    which = jax.random.randint(mine, (batch,), 0, records)
    return which, jax.random.randint(other, (batch,), 0, public), seed

"""The decoder: a network from activation to record, learned on public records.

Whoever can have the activations of records that it knows needs nothing else: no parameter of
the bottom, and not its form.
"""

from __future__ import annotations

from time import perf_counter

import jax

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.attack import GAINED, key_or_default
from jsplit.privacy.attacks.inputs.fitting import Fit, fitted, outputs, squared
from jsplit.privacy.attacks.inputs.inversion import Inversion, Range, inverted
from jsplit.privacy.attacks.inputs.networks import checked, decoder_for
from jsplit.privacy.attacks.inputs.seen import (
    Known,
    Query,
    in_both,
    known_of,
    public_of,
    received,
    truth_of,
)
from jsplit.privacy.attacks.rates import check_rates
from jsplit.privacy.scores import Adversary, Budget
from jsplit.privacy.traffic import Traffic

SOURCE = "He et al., Model inversion attacks against collaborative inference, 2019"


def decoder_attack(
    traffic: Traffic,
    record: PyTree,
    public: PyTree,
    query: Query,
    *,
    value: str | None = None,
    decoder: Segment | None = None,
    data_range: Range | None = None,
    steps: int = 1000,
    batch: int = 64,
    learning_rate: float = 2e-3,
    target: str = "record",
    key: jax.Array | None = None,
) -> Inversion:
    """Reconstruct records by a decoder that was trained on public ones.

    A passive adversary that has records of the same kind, and their activations: it may
    ask the bottom, as whoever serves a model may, or has a copy, or has pairs. A tenth
    of them is held out, and of the decoder's states the one kept that does best there.

    Args:
        traffic: what the adversary has seen: activations that came, of one model.
        record: the truth, a field [records, ...]; the score is held against it.
        public: that field of public records, [public, ...]. One that is among the
            private ones as well is no secret: `more` counts them.
        query: activations of `public`, or a function that gives them of it. Where a
            link adds noise they must have crossed that link, as the adversary's
            own questions would.
        value: which activation, where several came.
        decoder: a segment of one input, the activation; by default convolutions where
            activation and record are pictures, and else dense layers.
        data_range: the smallest and the largest value of a record, if the adversary
            knows it: guesses are clipped to it, and PSNR and SSIM are measured. By
            default guesses are clipped to the range of public records.
        steps: of Adam.
        batch: records a step.
        learning_rate: of Adam, falling to 0.
        target: the name of the field, for the score.
        key: a PRNG key.

    Returns:
        The MSE and the reconstructions. `control` is that of the same decoder trained
        on shuffled pairs, `chance` that of the mean of public records. `more` has the
        share of that floor that was "explained", "PSNR" and "SSIM", "in public", how
        many of the private records are public, and "gained in the last tenth".

    Raises:
        ValueError: if there are no public records, no activation came, shapes do not
            fit, or records are not finite.

    References:
        He, Zhang and Lee, `Model inversion attacks against collaborative inference
        <https://doi.org/10.1145/3359789.3359824>`_, 2019, the black-box attack;
        Dosovitskiy and Brox, `Inverting visual representations with convolutional
        networks <https://arxiv.org/abs/1506.02753>`_, 2016.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jsplit.privacy import Traffic, decoder_attack
        >>> x, w = (jax.random.normal(jax.random.key(n), (120, 3)) for n in (0, 1))
        >>> bottom = lambda x: jnp.tanh(x @ w[:8].T)
        >>> seen = Traffic("server", jnp.zeros(40, int), {"h": bottom(x[:40])})
        >>> found = decoder_attack(seen, x[:40], x[40:], bottom, steps=100)
        >>> found.score.beats_chance, found.reconstructed.shape
        (True, (40, 3))
    """
    start = perf_counter()
    key = key_or_default(key)
    for name, count in {"steps": steps, "batch": batch}.items():
        as_positive_int(name, count)
    check_rates(learning_rate=learning_rate)
    came = received(traffic, value)
    truth = truth_of(record, len(came), target)
    others = public_of(public, truth)
    known = known_of(query, others, came)
    network = decoder or decoder_for(came.shape[1:], truth.shape[1:])
    checked("decoder", network, came, truth.shape[1:])
    fit = Fit(network, squared, steps, batch, learning_rate)

    def decoded(known: Known) -> tuple[jax.Array, float]:
        # Around the mean and by one scale: a decoder starts near 0, a field need not.
        mean, scale = others.mean(0), others.std() + 1e-12
        found = fitted(fit, known.public, (known.truth - mean) / scale, key)
        guess = outputs(network, found.params, known.private) * scale + mean
        return guess.clip(others.min(), others.max()), found.gained

    guess, late = decoded(known)
    budget = Budget(steps, len(came), perf_counter() - start)
    asked = "asks the bottom for" if callable(query) else "knows"
    adversary = Adversary(
        traffic.party,
        f"{len(others)} records of the same kind, and {asked} their activations",
        public=len(others),
        source=SOURCE,
    )
    return inverted(
        "decoder",
        target,
        adversary,
        budget,
        truth,
        guess,
        decoded(known.shuffled(jax.random.fold_in(key, 1)))[0],
        mean=others.mean(0),
        data_range=data_range,
        key=jax.random.fold_in(key, 2),
        public=others,
        more={"in public": in_both(truth, others), GAINED: late},
    )

"""`information_bottleneck`: noise at the cut, and a penalty that bounds what gets through it.

The noise is a link's, of its sender's own secret. Where its deviation is learned too, the
link draws it again for the gradient.
"""

from __future__ import annotations

from math import isfinite, log
from numbers import Real

import jax
import jax.numpy as jnp

from jsplit.core.base import Link, PyTree
from jsplit.core.checks import shown
from jsplit.core.links import stateless
from jsplit.core.strength import Strength
from jsplit.privacy.defences.records import arrays, checked_scale, sent_as, vectors
from jsplit.privacy.guarantees.mechanism import Mechanism
from jsplit.topology.losses import Loss, Penalty


def information_bottleneck(
    value: str,
    party: str,
    weight: float | Strength,
    *,
    deviation: float | None = 1.0,
    name: str = "bottleneck",
) -> tuple[Loss, Link]:
    """A penalty and a link that together limit how much a value tells of its record.

    The link sends `z = h + N(0, deviation^2 I)`, of a party's own secret, in
    training and in inference. The penalty is the Kullback-Leibler divergence of that
    from N(0, I), mean over the records:
    `(|h|^2 + d (deviation^2 - 1 - log deviation^2)) / 2` nats. Whatever the data, its
    mean is an upper bound of the mutual information between a record and what is sent
    of it in one crossing. Both are needed: without the penalty h grows until the noise
    is nothing.

    With `deviation=None` it is learned, as in the published defence, by each number
    of each record: the value is an array [batch, ..., 2 d], first the means, then the
    logarithms of the variances. What arrives has the same shape, z and then zeros, so
    who receives it reads the first half. The penalty is
    `sum(exp(log variance) + mean^2 - 1 - log variance) / 2`. The sender draws its
    noise again for the gradient (the reparametrisation).

    It bounds an average over records under the training's data, and no single
    record: it is no differential privacy. In T steps T values are sent.

    Args:
        value: name of the party's own value that crosses, of floating arrays [batch, ...].
        party: who sends it.
        weight: factor of the penalty in the objective, in units of the loss for each
            nat; 0 leaves the noise. A `jsplit.Strength` can be set between steps.
        deviation: of the noise on each number, above 0, or `None`: it is learned. Leave
            both out to switch it off.
        name: of the penalty, under which the nats are reported.

    Returns:
        The `Loss`, for `topology.add`, and the secret `Link`, for `links={value: link}`.

    Raises:
        ValueError: if `weight` is negative or `deviation` not positive, or not finite;
            where a step is traced, if what crosses is not floating, or of a learned
            deviation not one array with an even last axis.

    References:
        Alemi et al., `Deep variational information bottleneck
        <https://arxiv.org/abs/1612.00410>`_, 2017, equation 17; in vertical learning
        Zou et al., `Mutual information regularization for vertical federated learning
        <https://arxiv.org/abs/2301.01142>`_, 2023 (MID).

    Example:
        >>> import jax.numpy as jnp, jsplit, optax
        >>> from jsplit.privacy import information_bottleneck
        >>> bottom = jsplit.segment(jnp.tanh, inputs=["x"], name="h")
        >>> top = jsplit.segment(lambda h: h.sum(-1), inputs=["h"], name="y")
        >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: (y - label) ** 2)
        >>> nats, noise = information_bottleneck("h", "client", 0.01)
        >>> trainer = jsplit.fused(topology.add(nats), {}, links={"h": (noise, None)})
        >>> batch = {"x": jnp.zeros((4, 3)), "label": jnp.zeros(4)}
        >>> _, info = trainer.step(trainer.init(0, batch), batch)
        >>> print(info.losses["bottleneck"])
        0.0
    """
    weight = checked_scale("weight", weight)
    if deviation is None:
        return Penalty(name, _learned_nats, party, [value], weight), _learned_link()
    is_number = isinstance(deviation, Real) and not isinstance(deviation, bool)
    if not is_number or not 0 < deviation or not isfinite(deviation):
        raise ValueError(
            f"`deviation` must be positive and finite, got {shown(deviation)}."
        )
    each = deviation**2 - 1 - 2 * log(deviation)

    def nats(h: PyTree) -> jax.Array:
        rows = vectors(h, "information_bottleneck")
        return (jnp.sum(rows**2, axis=1) + rows.shape[1] * each) / 2

    def encode(h: PyTree, key: jax.Array) -> PyTree:
        rows = vectors(h, "information_bottleneck")
        draw = jax.random.normal(key, rows.shape, rows.dtype)
        return arrays(rows + deviation * draw, h)

    link = stateless(
        encode, sent_as, secret=True, mechanism=Mechanism("bottleneck", secret=True)
    )
    return Penalty(name, nats, party, [value], weight), link


def _halves(h: PyTree) -> tuple[jax.Array, jax.Array]:
    """Means and logarithms of variances, [batch, ..., d] each."""
    vectors(h, "information_bottleneck")
    leaves = jax.tree.leaves(h)
    if len(leaves) != 1 or leaves[0].ndim < 2 or leaves[0].shape[-1] % 2:
        shapes = " and ".join(str(x.shape) for x in leaves)
        raise ValueError(
            "`information_bottleneck` with a deviation that is learned is of one array "
            f"[batch, ..., 2 d], means and logarithms of variances; got {shapes}."
        )
    mean, log_variance = jnp.split(leaves[0], 2, axis=-1)
    return mean, log_variance


def _learned_nats(h: PyTree) -> jax.Array:
    """The divergence from the standard normal, [batch]."""
    mean, log_variance = _halves(h)
    each = jnp.exp(log_variance) + mean**2 - 1 - log_variance
    return jnp.sum(each.reshape(len(each), -1), axis=1) / 2


def _learned_link() -> Link:
    """Send `mean + deviation noise`; the noise is drawn again for the gradient."""

    def noise(h: PyTree, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, log_variance = _halves(h)
        draw = jax.random.normal(key, mean.shape, mean.dtype)
        return mean, jnp.exp(log_variance / 2) * draw

    def encode(h: PyTree, key: jax.Array) -> jax.Array:
        mean, drawn = noise(h, key)
        return mean + drawn

    def decode(payload: jax.Array, like: PyTree) -> PyTree:
        both = jnp.concatenate([payload, jnp.zeros_like(payload)], axis=-1)
        return jax.tree.structure(like).unflatten([both])

    def pull(h: PyTree, cotangent: PyTree, key: jax.Array) -> PyTree:
        _, drawn = noise(h, key)
        # What arrived in the second half was no function of anything.
        of_z, _ = _halves(cotangent)
        both = jnp.concatenate([of_z, of_z * drawn / 2], axis=-1)
        return jax.tree.structure(h).unflatten([both])

    return stateless(
        encode,
        decode,
        secret=True,
        mechanism=Mechanism("bottleneck", secret=True),
        pull=pull,
    )

"""`nopeek`: a penalty by which a client's activations depend less on its raw records.

It lowers a correlation at what it costs in utility. It guarantees nothing: digits stay
readable at half the correlation, and a server that trains the bottom is not stopped by it.
"""

from __future__ import annotations

from functools import partial

from jsplit.core.strength import Strength
from jsplit.privacy.defences.records import checked_scale
from jsplit.privacy.measures.correlation import distance_correlation
from jsplit.topology.losses import Loss, Penalty


def nopeek(
    field: str,
    value: str,
    party: str,
    weight: float | Strength,
    *,
    name: str = "nopeek",
    corrected: bool = False,
) -> Loss:
    """Penalise the distance correlation of a field and of a value made of it.

    The party computes it on what it has, so nothing more crosses. Records
    count as their weights say, and those of weight 0 not at all. Its time and
    memory grow with the square of the batch (of the micro-batch).

    Args:
        field: name of the raw records, [batch, ...]; class numbers as one-hot.
        value: name of the party's own value that crosses, [batch, ...].
        party: who has both.
        weight: factor in the objective. A `jsplit.Strength` can be set between
            steps, also to 0, which is the plain run, so a trade-off curve is one
            program.
        name: of the penalty, under which its value is reported.
        corrected: whether the correlation is the bias-corrected one, whose scale
            is that of the square. The published one is not, and so depends
            on the size of the batch.

    Returns:
        A `jsplit.Loss`, for `topology.add`.

    Raises:
        ValueError: if `weight` is negative or not finite, or a name is none; by
            the topology, where the party lacks `field` or `value`.

    References:
        Vepakomma et al., `NoPeek: information leakage reduction to share
        activations in distributed deep learning
        <https://arxiv.org/abs/2008.09161>`_, 2020, equation 1.

    Example:
        >>> import jax.numpy as jnp, jsplit
        >>> from jsplit.privacy import nopeek
        >>> bottom = jsplit.segment(jnp.tanh, inputs=["x"], name="h")
        >>> top = jsplit.segment(lambda h: h.sum(-1), inputs=["h"], name="y")
        >>> topology = jsplit.vanilla(bottom, top, loss=lambda y, label: (y - label) ** 2)
        >>> strength = jsplit.Strength("nopeek", 5.0)
        >>> topology = topology.add(nopeek("x", "h", "client", strength))
        >>> [loss.name for loss in topology.losses]
        ['loss', 'nopeek']
    """
    # Below 0 it would make them depend more, in the name of a protection.
    weight = checked_scale("weight", weight)
    fn = partial(distance_correlation, corrected=bool(corrected))
    return Penalty(name, fn, party, [field, value], weight)

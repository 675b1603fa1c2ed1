"""UnSplit's inversion: records and the bottom's parameters found together, from its form alone.

Steps on guessed records, kept smooth, and steps on a surrogate bottom take turns, until the
surrogate makes of the guesses what came. No public record and no question is needed.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import cycle
from time import perf_counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jsplit.core.base import PyTree, Segment
from jsplit.core.checks import as_positive_int
from jsplit.privacy.attacks.attack import GAINED, gained, key_or_default
from jsplit.privacy.attacks.inputs.inversion import Inversion, Range, inverted
from jsplit.privacy.attacks.inputs.seen import received, truth_of
from jsplit.privacy.attacks.rates import check_rates, check_weights
from jsplit.privacy.measures.images import within
from jsplit.privacy.measures.records import at_least
from jsplit.privacy.scores import Adversary, Budget
from jsplit.privacy.traffic import Traffic

SOURCE = "Erdogan et al., UnSplit, 2022, model inversion and stealing"
WIDE = 0.3  # of the turns, in which guesses may lie outside the range, ever less far
MIDDLES = (0.5, 0.0, 1.0)  # of the first guesses of one start after the other


class _Surrogate(NamedTuple):
    """How guesses and a surrogate are fitted; by identity, so attack and control are one program.

    Attributes:
        bottom: the form.
        low: the smallest value of a record.
        high: the largest.
        pictures: whether records are pictures, whose neighbours are alike.
        rates: of Adam, for records and for parameters.
        steps: of each.
    """

    bottom: Segment
    low: float
    high: float
    pictures: bool
    rates: tuple[float, float]
    steps: int


def unsplit_inversion(
    traffic: Traffic,
    record: PyTree,
    bottom: Segment,
    *,
    data_range: Range,
    value: str | None = None,
    smooth: float = 0.03,
    steps: int = 1000,
    restarts: int = 6,
    learning_rate: float = 0.03,
    learning_rate_bottom: float = 0.05,
    target: str = "record",
    key: jax.Array | None = None,
) -> Inversion:
    """Reconstruct records from activations by whoever knows the form of the bottom alone.

    A passive adversary without any public record. Guesses of the records and the
    parameters of a surrogate take steps in turn to make what came. Guesses are kept in
    the range of data and, where they are pictures, smooth (total variation). Statistics
    of the surrogate, as BatchNorm's, stay as `bottom.init` gives them: its own scale and
    shift make up for that. Deeper bottoms have many inputs for one output, and it is
    published that this attack fails there: that is no protection against others.

    Args:
        traffic: what the adversary has seen: activations that came, of one model.
        record: the truth, [records, ...]; the score is held against it. Its shape is
            known to the adversary.
        bottom: the form: a segment of one input, which draws its parameters.
        data_range: the smallest and the largest value of a record.
        value: which activation, where several came.
        smooth: weight of the total variation beside the relative squared error of
            activations; 0 for none. Nothing where records are no pictures.
        steps: turns, each a step of Adam on records and one on parameters.
        restarts: how many surrogates; that one counts which matches best. First guesses
            lie around the middle of the range in one, at its low end in the next, then
            at its high end: a bottom whose bias moves with the brightness of guesses
            makes nearly the same of other ones, and Adam does not find the way back.
            Behind a relu most starts end at a wrong brightness.
        learning_rate: of Adam on records, in units of the range.
        learning_rate_bottom: of Adam on the surrogate's parameters.
        target: the name of the field, for the score.
        key: a PRNG key.

    Returns:
        The MSE and the reconstructions. `control` is that of noise of the same mean and
        deviation in the place of activations, `chance` that of the mean of the other
        records. `more` has "mismatch", the relative squared error of activations that
        is left, and "explained", "PSNR", "SSIM".

    Raises:
        ValueError: if no activation came, `bottom` has other shapes or takes given
            parameters, or records lie outside `data_range`.

    References:
        Erdogan, Kupcu and Cicek, `UnSplit: data-oblivious model inversion, model
        stealing, and label inference attacks against split learning
        <https://arxiv.org/abs/2108.09033>`_, 2022, section 3.2.

    Example:
        >>> import jax, jax.numpy as jnp, jsplit
        >>> from jsplit.privacy import Traffic, unsplit_inversion
        >>> draw = lambda key, x: jax.random.normal(key, (3, 1))
        >>> bottom = jsplit.segment(lambda w, x: jnp.tanh(x @ w.T), init=draw)
        >>> x = jax.random.uniform(jax.random.key(0), (40, 1))
        >>> h = jnp.tanh(x @ jnp.array([[2.0, -1.0, 0.5]]))
        >>> seen = Traffic("server", jnp.zeros(40, int), {"h": h})
        >>> found = unsplit_inversion(seen, x, bottom, data_range=(0, 1), steps=50)
        >>> found.reconstructed.shape
        (40, 1)
    """
    start = perf_counter()
    key = key_or_default(key)
    for name, count in {"steps": steps, "restarts": restarts}.items():
        as_positive_int(name, count)
    check_weights(smooth=smooth)
    check_rates(learning_rate=learning_rate, learning_rate_bottom=learning_rate_bottom)
    came = received(traffic, value)
    at_least(len(came), 2, "an inversion")
    truth = truth_of(record, len(came), target)
    low, high = within(truth, data_range)
    pictures = truth.ndim in (3, 4) and min(truth.shape[1:3]) > 1
    rates = learning_rate * (high - low), learning_rate_bottom
    form = _Surrogate(bottom, low, high, pictures, rates, steps)
    _check(form, truth, came, key)

    def run(came: jax.Array) -> tuple[jax.Array, float, float]:
        weight = jnp.float32(smooth)
        found = [
            _inverted(
                form, came, truth.shape, weight, jax.random.fold_in(key, n), middle
            )
            for n, middle in zip(range(restarts), cycle(MIDDLES), strict=False)
        ]
        # What is left unmatched the adversary sees, so that it may choose by that.
        return min(found, key=lambda one: one[1])

    guess, mismatch, late = run(came)
    # A step is one on records and one on the surrogate, as `steps` counts them.
    spent = perf_counter() - start
    budget = Budget(steps * restarts, len(came), spent, restarts)
    noise = jax.random.normal(jax.random.fold_in(key, 1 << 20), came.shape)
    nothing, _, _ = run(came.mean(0) + came.std(0) * noise)
    return inverted(
        "UnSplit",
        target,
        Adversary(traffic.party, "the form of the bottom, no record", source=SOURCE),
        budget,
        truth,
        guess,
        nothing,
        mean=None,
        data_range=(low, high),
        key=jax.random.fold_in(key, 1 << 21),
        more={"mismatch": mismatch, GAINED: late},
    )


def _check(form: _Surrogate, truth: jax.Array, came: jax.Array, key: jax.Array) -> None:
    """Refuse a form that does not make such activations, or that is no form alone."""
    drawn = [form.bottom.init(k, truth)[0] for k in jax.random.split(key)]
    leaves = zip(*(jax.tree.leaves(x) for x in drawn), strict=True)
    if all(np.array_equal(a, b) for a, b in leaves) and jax.tree.leaves(drawn):
        raise ValueError(
            "`bottom` must draw its parameters from the key of `bottom.init`: a "
            "surrogate that starts from given ones is not one that knows the form alone."
        )
    _, state = form.bottom.init(key, truth)
    shape = jax.eval_shape(partial(_made, form), drawn[0], state, truth).shape
    if shape != (len(came), came[0].size):
        raise ValueError(
            f"`bottom` must make {came[0].size} numbers of a record, as came, got "
            f"{shape[1]}."
        )


def _made(form: _Surrogate, params: PyTree, state: PyTree, x: jax.Array) -> jax.Array:
    """What the surrogate makes of guesses, flat, [records, numbers]."""
    h, _ = form.bottom.apply(params, state, None, x, train=False)
    leaves = [a.reshape(len(a), -1).astype(jnp.float32) for a in jax.tree.leaves(h)]
    return jnp.concatenate(leaves, axis=1)


@cache
def _optimizers(form: _Surrogate) -> tuple[optax.GradientTransformation, ...]:
    # Falling rates: at the end guesses of a pixel would jump by a step of Adam.
    found = (optax.cosine_decay_schedule(rate, form.steps) for rate in form.rates)
    return tuple(optax.adam(schedule) for schedule in found)


def _inverted(
    form: _Surrogate,
    came: jax.Array,
    shape: tuple,
    weight: jax.Array,
    key: jax.Array,
    middle: float,
) -> tuple[jax.Array, float, float]:
    """Guesses of one start, what they leave unmatched, and what came late of the gain."""
    came = came.reshape(len(came), -1)
    first, other = jax.random.split(key)
    span = form.high - form.low
    # Wider than the range at first: from guesses of one grey, channels of a relu that
    # are off for that grey would be off for good, and no gradient would tell.
    x = jax.random.uniform(other, shape, minval=-1.5, maxval=1.5)
    x = (x + middle) * span + form.low
    params, state = form.bottom.init(first, x)
    memory = tuple(
        o.init(p) for o, p in zip(_optimizers(form), (x, params), strict=True)
    )
    first = late = left = jnp.float32(jnp.inf)
    # A loop of Python over one compiled step: in a scan convolutions are slow on a CPU.
    for number in range(form.steps):
        beyond = span * max(0.0, 1 - number / (WIDE * form.steps))
        x, params, memory, left = _turn(
            form, x, params, state, memory, came, weight, beyond
        )
        first = left if number == 0 else first
        late = left if 10 * (number + 1) <= 9 * form.steps else late
    share = gained(float(first), float(late), float(left))
    return x, float(left) if np.isfinite(left) else np.inf, share


@partial(jax.jit, static_argnames="form")
def _turn(form, x, params, state, memory, came, weight, beyond):
    scale = jnp.mean((came - came.mean(0)) ** 2) + 1e-12

    def missed(x: jax.Array, params: PyTree) -> jax.Array:
        return jnp.mean((_made(form, params, state, x) - came) ** 2) / scale

    def cost(x: jax.Array) -> jax.Array:
        # A sum over records, since guesses of one do not depend on how many there are.
        return len(x) * (missed(x, params) + weight * _variation(form, x))

    of_x, of_params = _optimizers(form)
    updates, own = of_x.update(jax.grad(cost)(x), memory[0], x)
    moved = jnp.asarray(x + updates)
    x = moved.clip(form.low - beyond, form.high + beyond)
    left, gradient = jax.value_and_grad(missed, 1)(x, params)
    updates, theirs = of_params.update(gradient, memory[1], params)
    return x, optax.apply_updates(params, updates), (own, theirs), left


def _variation(form: _Surrogate, x: jax.Array) -> jax.Array:
    """Mean absolute difference of neighbours, in units of the range."""
    if not form.pictures:
        return jnp.float32(0)
    down, right = (jnp.abs(jnp.diff(x, axis=axis)).mean() for axis in (1, 2))
    return (down + right) / (form.high - form.low)

"""`label_response`: randomized response of labels, drawn once for each record and kept.

Drawn anew in each step it would give the label away to whoever averages. Here the answer
is a function of a secret key and the record's id, so that it is the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jsplit.core.arrays import Foreign
from jsplit.core.checks import as_positive_int, shown
from jsplit.core.ids import listed
from jsplit.privacy.guarantees.mechanism import Mechanism
from jsplit.privacy.guarantees.pure import response_keep

_LEAST, _MOST = 16, 64
"""Bytes of a key: what nobody can try out, and what BLAKE2 takes."""


def label_response(
    labels: ArrayLike, ids: Foreign, *, classes: int, epsilon: float, key: bytes
) -> np.ndarray:
    """Answer for each record with its label, or at random with another class.

    The label holder does it once, before training, and trains and answers with
    these labels alone. A label is kept with probability
    `e^epsilon / (e^epsilon + classes - 1)`; each other class is said with the
    same probability. So the label of a record is epsilon-private against
    everybody else, however long they watch and whatever the model does. Its
    features and that it takes part are not protected. It is a guarantee for
    independent records; a label that follows from another field protects
    nothing.

    The answer follows from `key` and the id: whoever has the key and the answers
    knows much more, and who repeats it with another key releases a second
    answer, whose epsilon adds up. Keep the key where the labels are.

    Args:
        labels: class numbers from 0 on, integers or whole floats, [records] or
            [records, 1].
        ids: one name for each record, each once, as for `jsplit.party.run`.
        classes: how many labels there are, at least 2.
        epsilon: at least 0; 0 says nothing of the label, infinity is the label.
        key: a secret of the label holder, 16 to 64 bytes, as of
            `secrets.token_bytes(32)`.

    Returns:
        The answers, in the shape and dtype of `labels`.

    Raises:
        ValueError: if a label is no class number, or their dtype cannot hold
            all classes, ids do not pair with the records or name one twice, or
            `classes`, `epsilon` or `key` is out of range.

    References:
        Warner, Randomized response, 1965; Kairouz, Oh & Viswanath, `Extremal
        mechanisms for local differential privacy <https://arxiv.org/abs/1407.1338>`_,
        2014, equation 5; for labels of training Ghazi et al., `Deep learning with
        label differential privacy <https://arxiv.org/abs/2102.06062>`_, 2021.

    Example:
        >>> import numpy as np
        >>> from jsplit.privacy import label_response
        >>> key = bytes(range(32))  # in earnest: secrets.token_bytes(32)
        >>> labels, ids = np.arange(9000) % 2, range(9000)
        >>> said = label_response(labels, ids, classes=2, epsilon=3.0, key=key)
        >>> print(round((said == labels).mean(), 2))
        0.95
    """
    keep = response_keep(epsilon, classes)
    given = np.asarray(labels)
    numbers = _class_numbers(given, classes)
    names = [_text(x) for x in listed("ids", ids)]
    if len(names) != len(numbers):
        raise ValueError(
            f"`ids` must name each record, got {len(names)} for {len(numbers)} labels."
        )
    if len({*names}) < len(names):
        raise ValueError(
            f"`ids` of {len(names)} records name {len(names) - len({*names})} that "
            "another has: one record has one answer."
        )
    if not isinstance(key, bytes) or not _LEAST <= len(key) <= _MOST:
        got = f"{len(key)} bytes" if isinstance(key, bytes) else type(key).__name__
        raise ValueError(f"`key` must be {_LEAST} to {_MOST} bytes, got {got}.")

    drawn = np.empty((len(names), 2), np.uint64)
    for i, name in enumerate(names):
        # Of the id alone and not of the place, so that no order and no choice of
        # records gives a second answer.
        made = blake2b(name.encode(), key=key, digest_size=16, person=b"jsplit labels")
        drawn[i] = np.frombuffer(made.digest(), "<u8")
    # 53 bits are what a float64 holds.
    kept = (drawn[:, 0] >> np.uint64(11)) * 2.0**-53 < keep
    shift = 1 + (drawn[:, 1] % np.uint64(classes - 1)).astype(np.int64)
    said = np.where(kept, numbers, (numbers + shift) % classes)
    return said.astype(given.dtype).reshape(given.shape)


def response_mechanism(classes: int, epsilon: float) -> Mechanism:
    """What `label_response` declares, for `guarantee(labels={"label": ...})`.

    Args:
        classes: as it was given there.
        epsilon: as it was given there.

    Returns:
        A `Mechanism` of the kind `"response"`, once for each record, secret.

    Raises:
        ValueError: if `classes` or `epsilon` is out of range.

    Example:
        >>> from jsplit.privacy import response_mechanism
        >>> response_mechanism(classes=2, epsilon=1.0).per
        'record'
    """
    keep = response_keep(epsilon, classes)
    return Mechanism("response", keep=keep, classes=classes, secret=True)


def unbiased_loss(
    fn: Callable[..., jax.Array], classes: int, epsilon: float
) -> Callable[..., jax.Array]:
    """A loss of randomized labels whose expectation is the loss of the true ones.

    With `keep` the probability of the true label and `flip` that of each other
    one it is `(fn(output, said) - flip sum_k fn(output, k)) / (keep - flip)`. Its
    variance is larger, by far where epsilon is small, and it may be negative.

    Args:
        fn: `fn(output, label)`, a number for each record, [batch], for class
            numbers [batch].
        classes: as for `label_response`.
        epsilon: as for `label_response`, above 0.

    Returns:
        A function of the same arguments, for the `loss` of a topology.

    Raises:
        ValueError: if `classes` or `epsilon` is out of range, or `epsilon` is 0: then
            answers say nothing of labels.

    References:
        Natarajan et al., `Learning with noisy labels
        <https://papers.nips.cc/paper/5073-learning-with-noisy-labels>`_, 2013,
        lemma 1.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from jsplit.privacy import unbiased_loss
        >>> entropy = optax.softmax_cross_entropy_with_integer_labels
        >>> loss = unbiased_loss(entropy, classes=2, epsilon=3.0)
        >>> print(loss(jnp.array([[0.0, 2.0]]), jnp.array([1])).round(3))
        [0.022]
    """
    keep = response_keep(epsilon, classes)
    flip = (1 - keep) / (classes - 1)
    if not keep > flip:
        raise ValueError(f"`epsilon` must be above 0, got {shown(epsilon)}.")

    def unbiased(output: jax.Array, label: jax.Array) -> jax.Array:
        of_each = [fn(output, jnp.full_like(label, k)) for k in range(classes)]
        total = sum(of_each[1:], of_each[0])
        return (fn(output, label) - flip * total) / (keep - flip)

    return unbiased


def _class_numbers(given: np.ndarray, classes: int) -> np.ndarray:
    """Labels as integers [records]."""
    classes = as_positive_int("classes", classes)
    if (
        given.shape[1:] not in ((), (1,))
        or not given.ndim
        or given.dtype.kind not in "biuf"
    ):
        raise ValueError(
            "`labels` must be class numbers, [records] or [records, 1], got "
            f"{given.dtype} {given.shape}."
        )
    if classes - 1 > _largest(given.dtype):
        # The answer would be another class in it, or a negative number.
        raise ValueError(
            f"`labels` of {given.dtype} cannot hold the class {classes - 1} of "
            f"`classes` = {classes}, which may be an answer: give wider numbers."
        )
    flat = given.ravel()
    wrong = int((~((flat >= 0) & (flat < classes) & (flat == np.floor(flat)))).sum())
    if wrong:
        raise ValueError(
            f"`labels` must be whole numbers from 0 to {classes - 1}; {wrong} of "
            f"{len(flat)} are not."
        )
    return flat.astype(np.int64)


def _largest(dtype: np.dtype) -> int:
    """Up to which number a dtype has all whole ones."""
    if dtype.kind == "b":
        return 1
    if dtype.kind == "f":
        return 2 ** (np.finfo(dtype).nmant + 1)
    return int(np.iinfo(dtype).max)


def _text(name: Foreign) -> str:
    """An id as text, the same for 7, 7.0 and NumPy's 7, and another for "7"."""
    if isinstance(name, str):
        return f"s{name}"
    number = float(name)
    if not number.is_integer():
        raise ValueError("`ids` must be text or whole numbers.")
    return f"i{int(name)}"

"""A guard on recorded traffic: window by window, whether what came back looks honest."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.checks import shown
from jsplit.guarding import Evidence, Guard, begin, judge, note
from jsplit.privacy.traffic import Traffic


def guard(traffic: Traffic, rule: Guard | None = None) -> tuple[Evidence, ...]:
    """Look, in what came back to a party, for a loss that was not agreed on.

    A server that trains the client's part to leak gives cotangents of a loss of its own
    (FSHA). Where the party got answers and gave their cotangents, as the client of a
    U-shape, what came back is held to these: to the chain rule (`chain_rule`), and its
    `coherence` to theirs. A client that gets nothing but cotangents, as in vanilla, has
    only how far all its records are pushed one way, which an honest loss does as well
    that begins far from its optimum. Nothing is changed of the training, and no label is
    needed. Over the network `jsplit.party.run` does this by default.

    A window is no reason to stop a training: `Guard.answered` or `Guard.alone` in a row
    are. In vanilla they tell nothing of a regression with labels far from 0.
    `experiments/privacy/guard.py` measures how often windows are wrong, with intervals.

    All places of a cotangent are judged, and again those alone that are not at an end of
    the bottom's last activation (an exact 0, a repeated least or largest value), since
    what comes to a dead place trains nobody and may hide the rest.

    It misses what is small beside the honest cotangent or has mean zero over records,
    what hides where the bottom drops it in another way, and whoever only looks on. A
    window without suspicion is no guarantee.

    Args:
        traffic: of the party, as `jsplit.privacy.watch` gives it, with steps in their
            order.
        rule: the thresholds, by default those of `Guard()`.

    Returns:
        The `Evidence` of each full window of steps, in their order, of each receiver.

    Raises:
        ValueError: if no cotangent of a value that the party sent came back, or there
            are fewer steps than a window has.

    References:
        Pasquini et al., `Unleashing the tiger <https://arxiv.org/abs/2012.02670>`_,
        2021 (the attack); Erdogan et al., `SplitGuard
        <https://arxiv.org/abs/2108.09052>`_, 2022 (detection by false labels).

    Example:
        >>> import jax.numpy as jnp
        >>> from jsplit.privacy import Guard, Traffic, guard
        >>> h = jnp.ones((8, 3))
        >>> step = jnp.repeat(jnp.arange(2), 4)
        >>> seen = Traffic("client", step, returned={"h": h}, sent={"h": h})
        >>> print(*guard(seen, Guard(window=2)))
        `h`, steps 0 to 1: one way 1.000, above 0.11: suspicious
    """
    rule = Guard() if rule is None else rule
    if not isinstance(rule, Guard):
        raise ValueError(f"`rule` must be a Guard, got {shown(rule)}.")
    sent, returned = _both(traffic.sent, traffic.returned)
    if not sent:
        raise ValueError(
            f"`traffic` must have the cotangents of what `{traffic.party}` sent, got "
            f"those of {', '.join(traffic.returned) or 'nothing'}."
        )
    numbers = np.asarray(traffic.step)
    # Where each step begins; the last one ends with the records.
    begins = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))
    steps = np.split(np.arange(len(numbers)), begins[1:])
    if len(steps) < rule.window:
        raise ValueError(
            f"`traffic` must have at least {rule.window} steps, a window, got "
            f"{len(steps)}."
        )
    received, gave = _both(traffic.received, traffic.gave)
    # The answers depend on all that was sent, so the chain rule is of all together;
    # without them each receiver's cotangents are looked at by themselves.
    groups = [[*sent]] if received else [[n] for n in sent]
    found: list[Evidence] = []
    for start in range(0, len(steps) - rule.window + 1, rule.window):
        inside = steps[start : start + rule.window]
        ends = (int(numbers[inside[0][0]]), int(numbers[inside[-1][0]]))
        for names in groups:
            tables = [{n: x[n] for n in names} for x in (sent, returned)]
            tables += [received, gave] if received else []
            # A slice of NumPy is no copy and no program.
            tables = jax.tree.map(np.asarray, tables)
            tally = begin(tables[1], gave if received else None)
            for rows in inside:
                here = slice(rows[0], rows[-1] + 1)
                tally = _add(tally, *jax.tree.map(lambda x, s=here: x[s], tables))
            said = ", ".join(names), *ends
            found.append(judge(tally, rule, *said, answered=bool(received)))
    return tuple(found)


_add = jax.jit(note)


def _both(
    one: Mapping[str, PyTree], other: Mapping[str, PyTree]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Those values of two that both have, under the names of the first."""
    # Where there are several, `h to server` comes back as `h from server`, and the
    # other way round.
    turned = {" to ": " from ", " from ": " to "}
    names: dict[str, str] = {}
    for name in one:
        found = [name] + [name.replace(a, b) for a, b in turned.items() if a in name]
        there = [n for n in found if n in other]
        if there:
            names[name] = there[0]
    return {n: one[n] for n in names}, {n: other[m] for n, m in names.items()}

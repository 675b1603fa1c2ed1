"""What leaks at each cut of a model, measured by a report there: what `jsplit.plan` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax

from jsplit.core.base import Fields
from jsplit.core.trainer import Trainer
from jsplit.privacy.reporting.attempt import Attempt
from jsplit.privacy.reporting.knowing import Known
from jsplit.privacy.reporting.ranges import checked_ranges
from jsplit.privacy.reporting.records import Outcome, best_of
from jsplit.privacy.reporting.reporting import report
from jsplit.privacy.scores import Score
from jsplit.slicing.cut_point import CutPoint

FEW = 3  # reasons that an error gives


def leakage(
    trainer: Callable[[CutPoint], Trainer],
    data: Fields,
    *,
    target: str,
    measure: str | None = None,
    test: Fields | None = None,
    public: Fields | None = None,
    known: Known = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    attacks: Sequence[Attempt] | None = None,
    epochs: int = 10,
    batch: int = 64,
    watched: int = 16,
    attacked: int = 1024,
    steps: int | None = None,
    key: jax.Array | int = 0,
) -> Callable[[CutPoint], Score]:
    """Make a function that measures what leaks at a cut: `leakage` of `jsplit.plan`.

    At each cut a trainer is made, trained, watched and attacked as by `report`, with
    the same options, and the score is that of the best attack by any party on one field.
    So a plan of `n` cuts takes as long as `n` reports.

    Args:
        trainer: gives the trainer of a cut, a whole topology with its links; it is of
            a model whose parameters start anew.
        data: every field that the topology reads, [records, ...] each.
        target: the field or label that attacks aim at.
        measure: of scores, as "MSE" or "AUC", where attacks are measured differently.
        test: as for `report`.
        public: as for `report`.
        known: as for `report`.
        ranges: as for `report`.
        attacks: as for `report`.
        epochs: as for `report`.
        batch: as for `report`.
        watched: as for `report`.
        attacked: as for `report`.
        steps: as for `report`.
        key: as for `report`.

    Returns:
        A function of a `CutPoint` that gives a `Score`, in doubt where some attack has
        not converged, as a plan then says. It raises a `ValueError` where no
        attack on `target` could be tried, with the reasons, or where scores are of
        several measures.

    Raises:
        ValueError: if `target`, or a name of `ranges`, is no field of `data`.

    Example:
        >>> import jax, jsplit, optax
        >>> loss = optax.softmax_cross_entropy_with_integer_labels
        >>> draw = lambda key, x: {n: jax.random.normal(key, (3, 3)) for n in "ab"}
        >>> model = lambda w, x: x @ w["a"] @ w["b"]
        >>> def cut_at(point):
        ...     parts = jsplit.split(model, data["x"], cuts={"h": point}, init=draw)
        ...     return jsplit.fused(jsplit.vanilla(*parts.values(), loss=loss), optax.sgd(0.1))
        >>> x = jax.random.normal(jax.random.key(0), (64, 3))
        >>> data = {"x": x, "label": (x[:, 0] > 0).astype("int32")}
        >>> options = {"attacks": jsplit.privacy.attempts()[:1], "epochs": 1}
        >>> leaks = jsplit.privacy.leakage(cut_at, data, target="label", **options)
        >>> plan = jsplit.plan(
        ...     model, x, init=draw, leakage=leaks,
        ...     client=jsplit.Device(1e6), link=jsplit.Network(1e6),
        ... )
        >>> [c.measure for c in plan.choices]
        ['AUC']
    """
    if target not in data:
        raise ValueError(
            f"`target` must be one of {', '.join(data)}, the fields of `data`, got "
            f"{target!r}."
        )

    checked_ranges(ranges, data)

    def score(point: CutPoint) -> Score:
        found = report(
            trainer(point),
            data,
            test=test,
            public=public,
            known=known,
            ranges=ranges,
            attacks=attacks,
            epochs=epochs,
            batch=batch,
            watched=watched,
            attacked=attacked,
            steps=steps,
            key=key,
        )
        return _best(found["none"], point.name, target, measure)

    return score


def _best(outcome: Outcome, cut: str, target: str, measure: str | None) -> Score:
    found = [f for f in outcome.findings if f.score.target == target]
    if measure is not None:
        found = [f for f in found if f.score.measure == measure]
    measures = sorted({f.score.measure for f in found})
    if len(measures) > 1:
        raise ValueError(
            f"`measure` must say which of {', '.join(measures)} is meant: attacks on "
            f"`{target}` are measured by each."
        )
    if not found:
        why = [f"{u.what}: {u.why}" for u in outcome.untested if u.cut or u.proven]
        raise ValueError(
            f"at the cut `{cut}` no attack on `{target}` was tried: "
            f"{'; '.join([*dict.fromkeys(why)][:FEW]) or 'none was given'}."
        )
    return best_of(found).score

"""The attacks that a report runs by itself: an entry each. A new attack is entered here."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import cast

import numpy as np

from jsplit.core.base import Segment
from jsplit.privacy.attacks.inputs.decoder import decoder_attack
from jsplit.privacy.attacks.inputs.inversion import Inversion
from jsplit.privacy.attacks.inputs.inverter import inverted_tokens
from jsplit.privacy.attacks.inputs.nearest import nearest_tokens
from jsplit.privacy.attacks.inputs.unsplit import unsplit_inversion
from jsplit.privacy.attacks.labels.clusters import direction_clusters
from jsplit.privacy.attacks.labels.completion import model_completion
from jsplit.privacy.attacks.labels.cosine import cosine_attack
from jsplit.privacy.attacks.labels.matching import LossFn, gradient_matching
from jsplit.privacy.attacks.labels.norm import norm_attack
from jsplit.privacy.reporting.attempt import Attempt, Given
from jsplit.privacy.reporting.forms import completing
from jsplit.privacy.scores import Score
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing.view import View


def attempts() -> tuple[Attempt, ...]:
    """The attacks that `report` runs wherever their threat exists.

    Returns:
        Entries, to which one's own can be added.

    Example:
        >>> from jsplit.privacy import attempts
        >>> [a.name for a in attempts() if a.threat == "labels"]
        ['norm', 'cosine', 'direction clusters', 'gradient matching', 'model completion']
    """
    return (
        Attempt("norm", "labels", _norm, reads="cotangents", binary=True),
        Attempt(
            *("cosine", "labels", _cosine, "cotangents"), needs=("known",), binary=True
        ),
        Attempt("direction clusters", "labels", _clusters, reads="cotangents"),
        Attempt(
            *("gradient matching", "labels", _matching, "cotangents", ("head",)),
            steps=_own_steps(gradient_matching),
        ),
        Attempt(
            *("model completion", "labels", _completion, "activations", ("known",)),
            steps=_own_steps(model_completion),
        ),
        Attempt(
            *("decoder", "inversion", _decoder, "received", ("public",)),
            steps=_own_steps(decoder_attack),
        ),
        Attempt(
            *("UnSplit", "inversion", _unsplit, "received", ("bottom", "data_range")),
            steps=_own_steps(unsplit_inversion),
        ),
        Attempt(
            *("nearest embedding", "inversion", _nearest, "received", ("table",)),
            tokens=True,
        ),
        Attempt(
            *("token inverter", "inversion", _inverter, "received", ("public",)),
            steps=_own_steps(inverted_tokens),
            tokens=True,
        ),
    )


def _own_steps(attack: Callable[..., object]) -> int:
    """How many steps an attack takes if nobody says how many."""
    return signature(attack).parameters["steps"].default


def _shared(given: Given) -> dict:
    """What every attack on labels is told."""
    names = ("value", "target", "ids", "key")
    return {name: getattr(given, name) for name in names}


def _norm(view: View, traffic: Traffic, given: Given) -> Score:
    return norm_attack(traffic, given.truth, **_shared(given))


def _cosine(view: View, traffic: Traffic, given: Given) -> Score:
    known = cast(np.ndarray, given.known) & (given.truth == 1)
    return cosine_attack(traffic, given.truth, known=known, **_shared(given))


def _clusters(view: View, traffic: Traffic, given: Given) -> Score:
    return direction_clusters(traffic, given.truth, **_grouped(given))


def _matching(view: View, traffic: Traffic, given: Given) -> Score:
    head, loss = cast(Segment, given.head), cast(LossFn, given.loss)
    options: dict = {**_grouped(given), **given.effort}
    return gradient_matching(traffic, given.truth, head, loss, **options)


def _grouped(given: Given) -> dict:
    """What an attack is told that finds groups: labels only if there is one of each class."""
    known = given.known
    # Fewer would be refused; the attack needs none to find groups.
    if known is not None and len(np.unique(given.truth[known])) < (given.classes or 0):
        known = None
    return _shared(given) | {"classes": given.classes, "known": known}


def _decoder(view: View, traffic: Traffic, given: Given) -> Inversion:
    options: dict = {"data_range": given.data_range, **given.effort}
    return decoder_attack(
        traffic,
        given.truth,
        given.public,
        given.asked,
        value=given.value,
        target=given.target,
        key=given.key,
        **options,
    )


def _unsplit(view: View, traffic: Traffic, given: Given) -> Inversion:
    bottom = cast(Segment, given.bottom)
    options: dict = {"data_range": given.data_range, **given.effort}
    return unsplit_inversion(
        traffic,
        given.truth,
        bottom,
        value=given.value,
        target=given.target,
        key=given.key,
        **options,
    )


def _nearest(view: View, traffic: Traffic, given: Given) -> Inversion:
    table = cast(np.ndarray, given.table)
    options = {name: getattr(given, name) for name in ("value", "target", "key")}
    return nearest_tokens(traffic, given.truth, table, **options)


def _inverter(view: View, traffic: Traffic, given: Given) -> Inversion:
    public = cast(np.ndarray, given.public)
    options = {name: getattr(given, name) for name in ("value", "target", "key")}
    # How many tokens there are is known of a model that is public.
    vocabulary = int(max(given.truth.max(), public.max())) + 1
    options |= {"vocabulary": vocabulary, **given.effort}
    return inverted_tokens(traffic, given.truth, public, given.asked, **options)


def _completion(view: View, traffic: Traffic, given: Given) -> Score:
    classes = cast(int, given.classes)
    options: dict = {**_shared(given), **given.effort}
    return model_completion(
        traffic,
        given.truth,
        completing(classes),
        known=given.known,
        classes=classes,
        **options,
    )

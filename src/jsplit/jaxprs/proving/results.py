"""Results of one primitive, and of pairs of primitives, that tell together what was given.

Sorted values beside their places, all parts of a split, a cosine and a sine, a size and an
angle: each alone leaves something out.
"""

from __future__ import annotations

from collections.abc import Callable

from jsplit.jaxprs.proving.term_rules import BROADCAST
from jsplit.jaxprs.proving.terms import Terms

_Has = Callable[[int], bool]
_PAIRS = {"abs", "cos", "imag", "real", "sin"}
_TELL = [{"cos", "sin"}, {"real", "imag"}]


def by_results(terms: Terms, has: _Has) -> tuple[set[int], set[int]]:
    """The terms that known results tell.

    Args:
        terms: all terms.
        has: whether a term is known.

    Returns:
        Those that are told; and those of which some entries are.
    """
    results: dict[tuple, list[int]] = {}
    pairs: dict[tuple[int, ...], set[str]] = {}
    whole: set[int] = set()
    partly: set[int] = set()
    for t, term in enumerate(terms.all):
        if term.op == "sort":
            # Sorted alone and beside its places it is the same.
            by = (term.op, term.args[0], str(term.params["dimension"]))
            alone = term.params["num_keys"] == 1
            call = by if alone else (*by, str(term.key))
            results.setdefault(call, []).append(t)
        elif term.op in ("split", "unstack", "top_k"):
            assert isinstance(term.key, tuple)
            results.setdefault((term.op, term.key[0]), []).append(t)
        elif term.op in _PAIRS and has(t):
            pairs.setdefault(term.args, set()).add(term.op)
        elif term.op == "atan2" and has(t) and (of := _complex(terms, t)) is not None:
            pairs.setdefault((of,), set()).add("angle")
    for args, ops in pairs.items():
        if ops in _TELL or {"abs", "angle"} <= ops:
            whole.add(args[0])
    for call, own in results.items():
        known = [t for t in own if has(t)]
        (x, *_) = terms.all[own[0]].args
        if call[0] == "sort":
            whole |= _unsorted(terms, known)
        elif len(known) < 2 or len(known) < len(own):
            continue
        elif call[0] != "top_k" or terms.all[own[0]].shape == terms.all[x].shape:
            whole.add(x)
        else:
            partly.add(x)
    return whole, partly


def _complex(terms: Terms, t: int) -> int | None:
    """The complex numbers whose angles an `atan2` is."""
    imag, real = (terms.all[a] for a in terms.all[t].args)
    same = imag.args == real.args and len(imag.args) == 1
    return imag.args[0] if same and (imag.op, real.op) == ("imag", "real") else None


def _unsorted(terms: Terms, known: list[int]) -> set[int]:
    """What was sorted beside its places, if the order of these is known."""
    if not any(_is_order(terms, t) for t in known):
        return set()
    # Places that are sorted themselves are as known as where they came from: a rank.
    keys = {(terms.all[t].args[0], _axis(terms, t)) for t in known}
    ranked = {
        k
        for k, axis in keys
        if terms.all[k].op == "sort" and _axis(terms, k) == axis and _is_order(terms, k)
    }
    return {_source(terms, t) for t in known} | ranked


def _is_order(terms: Terms, t: int) -> bool:
    """Whether a sorted array is the places, along the axis, from which others came."""
    of = _source(terms, t)
    term = terms.all[of]
    if term.op == "iota":
        return term.params["dimension"] == _axis(terms, t)
    # Repeated along other axes.
    repeated = term.op == "move" and isinstance(term.key, tuple)
    if not repeated or term.key[0] != BROADCAST:  # type: ignore[index]
        return False
    inner = terms.all[term.args[0]]
    return inner.op == "iota" and term.key[2] == (_axis(terms, t),)  # type: ignore[index]


def _axis(terms: Terms, t: int) -> object:
    return terms.all[t].params["dimension"]


def _source(terms: Terms, t: int) -> int:
    """The array that a result of a sort has the entries of."""
    term = terms.all[t]
    # Of one array alone the key has no number of the result.
    at = term.key[1] if len(term.args) > 1 else 0  # type: ignore[index]
    assert isinstance(at, int)
    return term.args[at]

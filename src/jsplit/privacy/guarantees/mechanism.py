"""What a link, a label's noise or DP-SGD declares that it does: the norm, the noise, whose key.

`Link.mechanism` is one of these. jsplit cannot prove that code does what is declared;
`audit` can refute it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real

from jsplit.core.checks import as_positive_int, shown
from jsplit.core.strength import Strength
from jsplit.privacy.guarantees.grid import unfit

PRIVATE = ("gaussian", "laplace", "response")
"""Kinds that are differentially private, if their noise is secret."""

NOTES = {
    "marvell": "bounds the AUC of one batch under its model (Li et al., 2022), not of "
    "an attacker who averages: no differential privacy",
    "max norm": "is no differential privacy: its noise has no bounded sensitivity",
    "isotropic": "is no differential privacy: its deviation follows from the batch",
    "nopeek": "lowers a correlation: no differential privacy",
    "quantize": "rounds: no differential privacy",
    "top k": "leaves numbers out: no differential privacy",
    "bottleneck": "has learned noise without a bounded sensitivity: no differential "
    "privacy",
}
"""Of kinds that protect by experience, what may be said of them."""


@dataclass(frozen=True)
class Mechanism:
    """What is declared of noise: its kind, the norm that records are clipped to, its size.

    Attributes:
        kind: `"gaussian"`: the vector of a record is clipped to an L2 norm, and each of
            its numbers gets normal noise; `"laplace"`: L1, and Laplace noise;
            `"response"`: randomized response of a class number; any other name
            (`"marvell"`) is of something that is no differential privacy.
        clip: the largest norm of a record's vector, above 0.
        scale: deviation of the normal noise, or the scale b of Laplace noise, in units
            of `clip`; or the link's strength that it is, or its name.
        per: of what the vector is: `"record"`, or `"batch"`: all records in one norm.
            A response is `"record"` where it is drawn once for each record and kept,
            and `"step"` where it is drawn anew each time.
        secret: whether the noise is drawn from a key that only the sender has. Noise
            of the seed that all agreed on can be taken off by whoever receives it.
        keep: of a response, the probability of the true label.
        classes: of a response, how many labels there are.
        grid: in units of `clip`: the clipped vector is rounded to whole multiples of
            `grid * clip` such that its norm is at most `clip` still (`on_grid` rounds
            toward zero), the noise is rounded to such multiples as well, and their sum
            is exact. 0: they are not, and low bits show the vector.

    Raises:
        ValueError: naming the attribute that does not fit.

    Example:
        >>> from jsplit.privacy import Mechanism
        >>> Mechanism("gaussian", 1.0, 20.0, secret=True, grid=2**-12).private
        True
        >>> Mechanism("marvell", secret=True).private
        False
    """

    kind: str
    clip: float = 1.0
    scale: float | str | Strength = 0.0
    per: str = "record"
    secret: bool = False
    keep: float = 1.0
    classes: int = 2
    grid: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or not self.kind:
            raise ValueError(f"`kind` must be a name, got {shown(self.kind)}.")
        if self.per not in ("record", "batch", "step"):
            raise ValueError(
                f'`per` must be "record", "batch" or "step", got {shown(self.per)}.'
            )
        named = isinstance(self.scale, str | Strength)
        for what in ("clip", "grid") if named else ("clip", "scale", "grid"):
            x = getattr(self, what)
            is_number = isinstance(x, Real) and not isinstance(x, bool)
            # Numbers of NumPy of 16 bits, too, are counted with in 64.
            x = float(x) if is_number else float("nan")
            if not 0 <= x < float("inf") or (what == "clip" and not x):
                least = "positive" if what == "clip" else "at least 0 and finite"
                got = shown(getattr(self, what))
                raise ValueError(f"`{what}` must be {least}, got {got}.")
            object.__setattr__(self, what, x)
        as_positive_int("classes", self.classes)
        if not 1 / self.classes <= self.keep <= 1:
            raise ValueError(
                f"`keep` must lie in [1 / {self.classes}, 1], got {shown(self.keep)}."
            )

    @property
    def private(self) -> bool:
        """Whether its kind is differentially private, if the noise is secret.

        Returns:
            Whether it is.

        Example:
            >>> from jsplit.privacy import Mechanism
            >>> Mechanism("quantize").private
            False
        """
        return self.kind in PRIVATE

    def at(self, strengths: Mapping[str, float]) -> Mechanism:
        """The same with a number for its scale.

        Args:
            strengths: by name, as the state of the sender has them. A `Strength` that
                is not there has its own value.

        Returns:
            A mechanism whose `scale` is a number.

        Raises:
            ValueError: if there is no strength of that name.

        Example:
            >>> from jsplit.privacy import Mechanism
            >>> Mechanism("gaussian", scale="noise").at({"noise": 2.0}).scale
            2.0
        """
        if isinstance(self.scale, Strength):
            own = self.scale
            return replace(self, scale=float(strengths.get(own.name, own.value)))
        if not isinstance(self.scale, str):
            return self
        if self.scale not in strengths:
            raise ValueError(
                f"`strengths` has no `{self.scale}`, which is the scale of a mechanism."
            )
        return replace(self, scale=float(strengths[self.scale]))

    def fault(self, *, linked: bool = True) -> str | None:
        """Why it guarantees nothing on one record's vector, or `None` if it does.

        Args:
            linked: whether its noise is secret by the link that draws it.

        Returns:
            A sentence without its subject.

        Example:
            >>> from jsplit.privacy import Mechanism
            >>> Mechanism("gaussian", scale=1.0).fault()
            'has noise of a key that others have: whoever receives it takes it off'
        """
        if not self.private:
            return NOTES.get(self.kind, "is not known to be differentially private")
        if not (self.secret and linked):
            return (
                "has noise of a key that others have: whoever receives it takes it off"
            )
        if self.per == "batch":
            return "is clipped over the batch and not by record"
        if self.kind != "response" and self.scale == 0:
            return "has no noise"
        if self.kind == "response":
            return None
        if not self.grid:
            return (
                "has noise of floating numbers, which shows the value in its low bits "
                "(Mironov 2012): round both to a grid"
            )
        scale = self.scale if isinstance(self.scale, float | int) else 0.0
        width = scale * self.clip
        reaches = (width, 0.0) if self.kind == "gaussian" else (0.0, width)
        return unfit(self.grid * self.clip, *reaches)

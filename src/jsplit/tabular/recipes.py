"""What becomes of a table's columns: numbers to scale, categories to encode, labels to count.

A recipe says what is to be done; what is learned from the training part is in `fitted`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np

from jsplit.core.checks import as_positive_int, names_of, one_of, shown

Scale: TypeAlias = Literal["standard", "minmax", "robust"]
Fill: TypeAlias = Literal["mean", "median", "zero"]
Flags: TypeAlias = Literal["seen", "all", "none"]


@dataclass(frozen=True)
class Numbers:
    """Columns of numbers as one field of floats, filled, scaled and flagged.

    Missing values are filled, and a flag says where (1, else 0), in columns that come
    after all others, in their order. As in scikit-learn a column is filled first and
    scaled then.

    Args:
        columns: their names, or that of one. One alone is a field [record]; a list one
            [record, columns and flags].
        scale: `"standard"` (mean 0, variance 1), `"minmax"` (0 to 1), `"robust"` (median
            0, interquartile range 1), or `None`. A constant column is shifted alone.
        fill: what stands for a missing value: `"mean"`, `"median"`, `"zero"`; with `None`
            one that is missing is refused.
        flags: which columns get a flag: `"seen"`, those with missing values in the
            training part; `"all"`; or `"none"`.
        infinite: `"refuse"`, or `"missing"`: infinity counts as a missing value.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import jsplit
        >>> jsplit.Numbers(["age", "bmi"], fill="median").scale
        'standard'
    """

    columns: Sequence[str] | str
    scale: Scale | None = "standard"
    fill: Fill | None = "mean"
    flags: Flags = "seen"
    infinite: Literal["refuse", "missing"] = "refuse"

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _names(self.columns))
        one_of("scale", self.scale, (None, "standard", "minmax", "robust"))
        one_of("fill", self.fill, (None, "mean", "median", "zero"))
        one_of("flags", self.flags, ("seen", "all", "none"))
        one_of("infinite", self.infinite, ("refuse", "missing"))


@dataclass(frozen=True)
class Categories:
    """Columns of categories as one field: codes for an embedding, or one-hot.

    Code 0 is a category that the training part has not, or seldom; 1 is a missing value;
    from 2 on come the categories in their order. So no record is refused when the model
    serves, and `sizes` of a `Preprocessing` are the rows that an embedding needs.

    Args:
        columns: their names, or that of one. Codes of one alone are a field [record], of
            a list one [record, columns], int32; one-hot it is [record, sum of sizes],
            float32, either way.
        one_hot: whether to encode so.
        least: how often the training part must have a category for it to have a code of
            its own. By default twice: of 1 the row of an embedding for unknown ones would
            often never be trained, and the file would name a category of one person.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> import jsplit
        >>> jsplit.Categories("ward").least
        2
    """

    columns: Sequence[str] | str
    one_hot: bool = False
    least: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _names(self.columns))
        as_positive_int("least", self.least)


@dataclass(frozen=True)
class Labels:
    """A column of classes as a field of numbers from 0 on, int32 [record].

    A missing label, and one of another class, is refused: it is nothing to train on.

    Args:
        column: its name.
        classes: text or integers, in their order; by default those of the training part,
            sorted.

    Raises:
        ValueError: if a class is there twice, is none, or they have no order.

    Example:
        >>> import jsplit
        >>> jsplit.Labels("outcome", classes=["healthy", "ill"]).classes
        ('healthy', 'ill')
    """

    column: str
    classes: Sequence[str | int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.column, str):
            raise ValueError(
                f"`column` must be one name, got {type(self.column).__name__}."
            )
        if self.classes is None:
            return
        classes = _classes(self.classes)
        if twice := len(classes) - len({*classes}):
            raise ValueError(f"`classes` must be there once, got {twice} twice.")
        object.__setattr__(self, "classes", classes)


Recipe: TypeAlias = Numbers | Categories | Labels


def _classes(given: object) -> tuple[str | int, ...]:
    """Classes as a file of JSON has them: text, or Python's integers.

    Raises:
        ValueError: if one is neither, some are text and some are not, or they have no
            order.
    """
    # A set has another order in each process, and so would the numbers of its classes.
    if isinstance(given, str | Mapping | Set) or not isinstance(given, Iterable):
        raise ValueError(
            f"`classes` must be a list in their order, got {shown(given)}."
        )
    entries = [*cast("Iterable[object]", given)]
    text = [str(x) for x in entries if isinstance(x, str)]
    # A float is what a table makes of integers where one is missing.
    whole = [int(cast(int, x)) for x in entries if _is_whole(x)]
    if not entries or len(entries) not in (len(text), len(whole)):
        raise ValueError(
            f"`classes` must be all text or all integers, got {len(text)} and "
            f"{len(whole)} of {len(entries)}."
        )
    return (*text, *whole)


def _is_whole(x: object) -> bool:
    # To NumPy a truth is no integer, and to a table it is one.
    if hasattr(x, "__index__") or isinstance(x, np.bool_):
        return True
    return isinstance(x, float | np.floating) and float(x).is_integer()


def _names(columns: Sequence[str] | str) -> tuple[str, ...] | str:
    # One name and a list of one are told apart: the field has an axis more.
    if isinstance(columns, str):
        return columns
    # Of NumPy's own strings plain ones, as a file gives them back.
    found = tuple(map(str, names_of("columns", columns)))
    if not found:
        raise ValueError("`columns` must name at least one column, got none.")
    return found

"""Learn from the training part what a recipe needs: means, scales, categories, by scikit-learn.

What is learned comes out as plain numbers, so that nothing of scikit-learn's is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from jsplit.tabular.fitted import (
    Category,
    Fitted,
    FittedCategories,
    FittedLabels,
    FittedNumbers,
    categories_of,
    check_kind,
    numbers_of,
)
from jsplit.tabular.recipes import Categories, Labels, Numbers, Recipe
from jsplit.tabular.table import Table

_log = logging.getLogger("jsplit.records")


def fit(recipe: Recipe, table: Table) -> Fitted:
    """What a recipe learns of a table.

    Raises:
        ValueError: naming the column that does not fit the recipe.
    """
    if isinstance(recipe, Numbers):
        return _numbers(recipe, table)
    if isinstance(recipe, Categories):
        return _categories(recipe, table)
    return _labels(recipe, table)


def _numbers(recipe: Numbers, table: Table) -> FittedNumbers:
    columns = _listed(recipe.columns)
    single = isinstance(recipe.columns, str)
    infinite = recipe.infinite == "missing"
    x = numbers_of(table, columns, infinite)
    missing = np.isnan(x)
    for place, column in enumerate(columns):
        if missing[:, place].all():
            raise ValueError(
                f"the column `{column}` has no value in the training part of {len(x)} "
                "records; leave it out."
            )
    fill = _filling(recipe, x)
    filled = np.where(missing, [0.0 if v is None else v for v in fill], x)
    for column, values in zip(columns, filled.T, strict=True):
        if np.ptp(values) == 0:
            _log.warning("the column `%s` is constant in the training part.", column)
    # A value that is refused where it is missing needs no flag.
    flags = "none" if recipe.fill is None else recipe.flags
    flagged = tuple(
        flags == "all" or (flags == "seen" and bool(missing[:, place].any()))
        for place in range(len(columns))
    )
    if single and any(flagged):
        raise ValueError(
            f"the column `{columns[0]}` has missing values, and a field [record] has no "
            f'place for flags: give `columns` as a list, or `flags="none"`.'
        )
    shift, scale = _scaling(recipe, filled)
    _tell_unscaled(recipe, columns, filled, scale)
    fitted = FittedNumbers(
        columns,
        single,
        fill,
        tuple(map(float, shift)),
        tuple(map(float, scale)),
        flagged,
        infinite,
    )
    # A missing value that is refused is told here, and not in the first step.
    fitted.of(table)
    return fitted


def _filling(recipe: Numbers, x: np.ndarray) -> tuple[float | None, ...]:
    """What stands for a missing value of each column."""
    if recipe.fill is None:
        return (None,) * x.shape[1]
    impute = _sklearn("impute")
    strategy = "constant" if recipe.fill == "zero" else recipe.fill
    # What the strategies that compute something do not look at.
    imputer = impute.SimpleImputer(strategy=strategy, fill_value=0.0)
    return tuple(float(v) for v in imputer.fit(x).statistics_)


def _scaling(recipe: Numbers, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of each column, of which none is 0."""
    if recipe.scale is None:
        return np.zeros(x.shape[1]), np.ones(x.shape[1])
    scalers = _sklearn("preprocessing")
    if recipe.scale == "standard":
        found = scalers.StandardScaler().fit(x)
        return found.mean_, found.scale_
    if recipe.scale == "robust":
        found = scalers.RobustScaler().fit(x)
        return found.center_, found.scale_
    found = scalers.MinMaxScaler().fit(x)
    return found.data_min_, 1 / found.scale_


# What scikit-learn takes for constant, by rounding, is shifted and not scaled.
_FLAT = 1e-3  # of a range that is scaled: that of the smallest is about 1


def _tell_unscaled(
    recipe: Numbers, columns: Sequence[str], x: np.ndarray, scale: np.ndarray
) -> None:
    """Warn of columns that differ, and by so little that they were not scaled."""
    if recipe.scale is None:
        return
    for column, values, one in zip(columns, x.T, scale, strict=True):
        with np.errstate(over="ignore"):
            spread = np.ptp(values)
        if 0 < spread < _FLAT * one:
            _log.warning(
                "the column `%s` differs by so little in the training part that it is "
                "not scaled: give it in another unit.",
                column,
            )


def _categories(recipe: Categories, table: Table) -> FittedCategories:
    columns = _listed(recipe.columns)
    known: list[tuple[Category, ...]] = []
    for column in columns:
        there = [x for x in categories_of(table, column) if x is not None]
        often = _often(there, recipe.least)
        if not often:
            raise ValueError(
                f"the column `{column}` has no category that is there {recipe.least} "
                f"times in the training part of {len(table)} records; leave it out."
            )
        known.append(often)
    single = isinstance(recipe.columns, str)
    return FittedCategories(columns, single, tuple(known), recipe.one_hot)


def _often(entries: Sequence[Category], least: int) -> tuple[Category, ...]:
    """The categories that are there `least` times or more, sorted."""
    if not entries:
        return ()
    encoders = _sklearn("preprocessing")
    column = np.full((len(entries), 1), None, object)
    column[:, 0] = entries
    # Of one record a frequency of 1 is meant as a count, as it is here.
    found = encoders.OneHotEncoder(min_frequency=least).fit(column)
    seldom = found.infrequent_categories_[0]
    seldom = () if seldom is None else {*seldom.tolist()}
    return tuple(x for x in found.categories_[0].tolist() if x not in seldom)


def _labels(recipe: Labels, table: Table) -> FittedLabels:
    entries = categories_of(table, recipe.column)
    if recipe.classes is None:
        classes = _often([x for x in entries if x is not None], 1)
        if len(classes) < 2:
            raise ValueError(
                f"the label `{recipe.column}` has {len(classes)} classes in the training "
                "part, and takes two; name them by `classes`."
            )
    else:
        classes = tuple(recipe.classes)
        check_kind(recipe.column, entries, classes)
    fitted = FittedLabels((recipe.column,), classes)
    fitted.of(table)
    return fitted


def _listed(columns: Sequence[str] | str) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _sklearn(part: str) -> ModuleType:
    """A part of scikit-learn, an extra: `import jsplit` must not import it."""
    try:
        from sklearn import impute, preprocessing
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "to fit a preprocessing takes the package scikit-learn, of the extra "
            "`jsplit[records]`; to apply one does not.",
            name=error.name,
        ) from error
    return impute if part == "impute" else preprocessing

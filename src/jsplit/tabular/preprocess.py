"""A party's preprocessing: fitted on its training part, applied to all that follows, kept as JSON.

It lies beside the party's checkpoint, can be read by eye, and comes back to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from jsplit.core.identified import Identified
from jsplit.tabular.fitted import Fitted, FittedCategories, FittedLabels
from jsplit.tabular.fitting import fit
from jsplit.tabular.recipes import Categories, Labels, Numbers, Recipe
from jsplit.tabular.storing import read_fitted, write_fitted
from jsplit.tabular.table import Table


@dataclass(frozen=True, repr=False)
class Preprocessing:
    """What was learned of a training part, by field; made by `jsplit.preprocessing`.

    Attributes:
        fitted: by the name of the field.
        records: of how many records it was learned.

    Example:
        >>> import jsplit
        >>> table = jsplit.records({"id": [1, 2, 3], "age": [30, 50, 70]}, id="id")
        >>> fitted = jsplit.preprocessing(table, {"x": jsplit.Numbers(["age"])})
        >>> fitted
        Preprocessing(fitted on 3 records; x: age)
        >>> new = jsplit.records({"id": [4], "age": [50]}, id="id")
        >>> fitted.fields(new)["x"].array.tolist()
        [[0.0]]
    """

    fitted: Mapping[str, Fitted]
    records: int

    def fields(self, table: Table) -> dict[str, Identified]:
        """Make the fields of a batch of a table: of the training part or any other.

        Args:
            table: with the columns that it was fitted on; a label is made where the
                table has its column, so records to predict need none.

        Returns:
            By name, float32 or int32 [record, ...], that know whose their rows are.

        Raises:
            ValueError: naming the column that is missing or does not fit, with counts.

        Example:
            >>> import jsplit
            >>> table = jsplit.records({"id": [1, 2], "age": [30, 50]}, id="id")
            >>> fitted = jsplit.preprocessing(table, {"x": jsplit.Numbers(["age"])})
            >>> fitted.fields(table)["x"]
            Identified(float32[2, 1])
        """
        found: dict[str, Identified] = {}
        for name, one in self.fitted.items():
            if isinstance(one, FittedLabels) and one.columns[0] not in table.columns:
                continue
            found[name] = Identified(one.of(table), table.whose)
        return found

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """By field, what each of its columns is: how many they are is its width.

        Example:
            >>> import jsplit
            >>> table = jsplit.records({"id": [1, 2], "age": [30, None]}, id="id")
            >>> jsplit.preprocessing(table, {"x": jsplit.Numbers(["age"])}).names
            {'x': ('age', 'age is missing')}
        """
        return {name: one.names for name, one in self.fitted.items()}

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """By field of categories, how many codes each column has: the rows of an embedding.

        Example:
            >>> import jsplit
            >>> table = jsplit.records({"id": [1, 2], "ward": ["A", "A"]}, id="id")
            >>> jsplit.preprocessing(table, {"ward": jsplit.Categories("ward")}).sizes
            {'ward': (3,)}
        """
        return {
            name: one.sizes
            for name, one in self.fitted.items()
            if isinstance(one, FittedCategories)
        }

    @property
    def classes(self) -> dict[str, tuple[str | int, ...]]:
        """By field of labels, its classes in the order of their numbers.

        Example:
            >>> import jsplit
            >>> table = jsplit.records({"id": [1, 2], "y": ["ill", "well"]}, id="id")
            >>> jsplit.preprocessing(table, {"label": jsplit.Labels("y")}).classes
            {'label': ('ill', 'well')}
        """
        return {
            name: one.classes
            for name, one in self.fitted.items()
            if isinstance(one, FittedLabels)
        }

    def save(self, folder: str | os.PathLike[str], party: str) -> Path:
        """Write it beside the party's checkpoint, `<folder>/<party>.preprocessing.json`.

        It holds means, extremes and names of categories, so it is made for its owner
        alone, and goes to no other party. `jsplit.load_preprocessing` is the inverse.

        Args:
            folder: is made if it is not there.
            party: whose it is.

        Returns:
            The file.

        Raises:
            OSError: if it cannot be written; an older one is then as it was.

        Example:
            >>> import tempfile, jsplit
            >>> table = jsplit.records({"id": [1, 2], "age": [30, 50]}, id="id")
            >>> fitted = jsplit.preprocessing(table, {"x": jsplit.Numbers(["age"])})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     file = fitted.save(folder, "lab")
            >>> file.name
            'lab.preprocessing.json'
        """
        return write_fitted(folder, party, self.fitted, self.records)

    def __repr__(self) -> str:
        parts = "; ".join(
            f"{n}: {', '.join(x.columns)}" for n, x in self.fitted.items()
        )
        return f"Preprocessing(fitted on {self.records} records; {parts})"


def preprocessing(table: Table, recipes: Mapping[str, Recipe]) -> Preprocessing:
    """Learn from a party's training part how fields of numbers are made of its columns.

    Nothing else is looked at: what is held out, or comes later, changes nothing of it.

    Args:
        table: the training part, as of `table.split` or `table.take`.
        recipes: by the name of the field, `jsplit.Numbers`, `jsplit.Categories` or
            `jsplit.Labels`.

    Returns:
        What makes the fields of this table and of others.

    Raises:
        ValueError: naming the column that is not there, is constant text, infinite, all
            missing, or of another kind than the recipe takes.
        ModuleNotFoundError: if scikit-learn, an extra, is not installed.

    References:
        Filling, scaling and rare categories are those of scikit-learn's `SimpleImputer`,
        `StandardScaler`, `MinMaxScaler`, `RobustScaler` and `OneHotEncoder`:
        https://scikit-learn.org/stable/modules/preprocessing.html

    Example:
        >>> import jsplit
        >>> frame = {"id": [1, 2, 3, 4], "age": [40, 60, None, 50], "ward": list("ABBA")}
        >>> table = jsplit.records(frame, id="id")
        >>> recipes = {"x": jsplit.Numbers(["age"]), "ward": jsplit.Categories("ward")}
        >>> fitted = jsplit.preprocessing(table, recipes)
        >>> fitted.fields(table)["ward"].array.tolist()
        [2, 3, 3, 2]
        >>> fitted.names["x"], fitted.sizes["ward"]
        (('age', 'age is missing'), (4,))
    """
    if not isinstance(table, Table):
        raise ValueError(
            "`table` must be a Table, as `jsplit.records` gives it, got "
            f"{type(table).__name__}."
        )
    if not isinstance(recipes, Mapping) or not recipes:
        raise ValueError("`recipes` must be a dictionary of recipes by field.")
    fitted: dict[str, Fitted] = {}
    for name, recipe in recipes.items():
        if not isinstance(recipe, Numbers | Categories | Labels):
            raise ValueError(
                f"`recipes` of `{name}` must be Numbers, Categories or Labels, got "
                f"{type(recipe).__name__}."
            )
        fitted[name] = fit(recipe, table)
    return Preprocessing(MappingProxyType(fitted), len(table))


def load_preprocessing(folder: str | os.PathLike[str], party: str) -> Preprocessing:
    """Read what `Preprocessing.save` wrote, to the bit.

    Args:
        folder: where the file lies.
        party: whose it is.

    Returns:
        The preprocessing.

    Raises:
        ValueError: naming the file, if it is missing, not whole, another party's or of
            another format.

    Example:
        >>> import tempfile, jsplit
        >>> table = jsplit.records({"id": [1, 2], "age": [0.1, 0.7]}, id="id")
        >>> fitted = jsplit.preprocessing(table, {"x": jsplit.Numbers(["age"])})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = fitted.save(folder, "lab")
        ...     again = jsplit.load_preprocessing(folder, "lab")
        >>> file.name, again == fitted
        ('lab.preprocessing.json', True)
    """
    fitted, count = read_fitted(folder, party)
    return Preprocessing(MappingProxyType(fitted), count)

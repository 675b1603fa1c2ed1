"""A party's table: records with ids, brought into one order, made into fields of numbers."""

from jsplit.tabular.aligning import Alignment, align
from jsplit.tabular.preprocess import (
    Preprocessing,
    load_preprocessing,
    preprocessing,
)
from jsplit.tabular.recipes import Categories, Labels, Numbers
from jsplit.tabular.table import Table, records

__all__ = [
    "Alignment",
    "Categories",
    "Labels",
    "Numbers",
    "Preprocessing",
    "Table",
    "align",
    "load_preprocessing",
    "preprocessing",
    "records",
]

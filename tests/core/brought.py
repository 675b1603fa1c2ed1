"""What users bring, without pandas or torch: each does what the real one is asked for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Kind(NamedTuple):
    """A dtype that NumPy does not know, as pandas' nullable integers have."""

    kind: str
    numpy_dtype: object = object

    def __str__(self) -> str:
        return "categories MARKED-7731"


class Column:
    """A column as pandas has it; `None` is a missing value."""

    def __init__(self, values, dtype=None):
        self.values = list(values)
        self.dtype = np.asarray(self.values).dtype if dtype is None else dtype
        self.shape = (len(self.values),)

    @property
    def dtypes(self):
        return self.dtype

    def __iter__(self):
        return iter(self.values)

    def isna(self):
        return np.array([x is None for x in self.values])

    def to_numpy(self, dtype=None, na_value=None):
        values = [na_value if x is None else x for x in self.values]
        if dtype is None:
            dtype = self.dtype if isinstance(self.dtype, np.dtype) else object
        return np.array(values, dtype)


class Table:
    """A table of columns, without names."""

    def __init__(self, *columns):
        self.columns, self.dtypes = columns, [c.dtype for c in columns]
        self.shape = (len(columns[0].values), len(columns))

    def __iter__(self):
        return iter(f"column {i}" for i in range(len(self.columns)))

    @property
    def iloc(self):
        return self

    def __getitem__(self, place):
        return self.columns[place[1]]

    def to_numpy(self):
        return np.stack([c.to_numpy() for c in self.columns], 1)


class Tensor:
    """A tensor that NumPy can read only off its device, and not while it is followed."""

    def __init__(self, values, ready=False):
        self.values, self.ready = values, ready

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.values, True)

    def numpy(self):
        assert self.ready
        return self.values


class Refusing:
    """What cannot be read, and says so with a value."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("could not convert string to float: 'MARKED-7731'")


INTEGERS, FLOATS, WORDS = Kind("i", np.int64), Kind("f", np.float32), Kind("O")

MARK, NUMBER = "MARKED-7731", 7731773
"""Values that no error may have in it."""


def faults(n: int = 8) -> dict[str, object]:
    """By what is wrong, a field of `n` records, or about so, that holds marked values."""
    numbers = np.full((n, 3), NUMBER, np.float32)
    hidden = np.ma.masked_array(numbers, mask=np.arange(3 * n).reshape(n, 3) == 1)
    whole = Column([float(NUMBER)] * n)
    return {
        "masked": hidden,
        "strings": np.array([MARK] * n),
        "objects": np.array([MARK, NUMBER] * (n // 2), object),
        "a list of strings": [MARK] * n,
        "a list of numbers": [NUMBER] * n,
        "a string": MARK,
        "a scalar": np.float32(NUMBER),
        "too large": np.full((n, 3), NUMBER * 10**6),
        "missing": Column([NUMBER, None] * (n // 2), INTEGERS),
        "categories": Column([MARK] * n, WORDS),
        "a table with words": Table(whole, Column([MARK] * n, WORDS)),
        "a table that rounds": Table(whole, Column([NUMBER * 100 + 1] * n)),
        "unreadable": Refusing(),
        "anything": object(),
        "structured": np.zeros(n, [(MARK, "f4")]),
        "a table of records": np.full(n, NUMBER, [("a", "f4")]).view(np.recarray),
        "of other length": numbers[: n - 1],
    }

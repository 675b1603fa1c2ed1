"""An array of each client as rows that lie on the host: what changes shares what does not.

So a state in hand stays valid without a copy of all clients' rows in every round.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jsplit.core.base import PyTree
from jsplit.core.keys import is_key


class HostRows:
    """One array of each client, [clients, ...], as rows that lie on the host.

    It never changes: `put` makes another one, which shares the rows that stay.

    Args:
        rows: by client.

    Example:
        >>> import numpy as np
        >>> from jsplit.rounds import HostRows
        >>> rows = HostRows([np.zeros(2)] * 3).put([1], np.ones((1, 2)))
        >>> rows.shape, rows[1].tolist(), np.asarray(rows).sum(1).tolist()
        ((3, 2), [1.0, 1.0], [0.0, 2.0, 0.0])
    """

    def __init__(self, rows: Sequence[np.ndarray]):
        self._rows = rows
        self.shape, self.dtype = (len(rows), *rows[0].shape), rows[0].dtype
        self.ndim, self.size = len(self.shape), len(rows) * rows[0].size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, client: int) -> np.ndarray:
        # A copy, as of an array of JAX: what lies here must never change.
        return np.array(self._rows[client])

    def __array__(
        self, dtype: np.dtype | None = None, copy: bool | None = None
    ) -> np.ndarray:
        return np.stack(self._rows).astype(dtype or self.dtype, copy=False)

    def __eq__(self, other: object) -> PyTree:
        # By number, as of any array: two of the same numbers are not one object.
        return np.asarray(self) == np.asarray(other)

    def __repr__(self) -> str:
        return f"HostRows({self.dtype}{list(self.shape)})"

    def take(self, clients: Sequence[int]) -> np.ndarray:
        """Return the rows of some clients as one array.

        Args:
            clients: their numbers.

        Returns:
            A copy of their rows, [n, ...].

        Example:
            >>> import numpy as np
            >>> from jsplit.rounds import HostRows
            >>> HostRows([*np.arange(6.0).reshape(3, 2)]).take([2, 0]).tolist()
            [[4.0, 5.0], [0.0, 1.0]]
        """
        return np.stack([self._rows[k] for k in clients])

    def put(self, clients: Sequence[int], array: PyTree) -> HostRows:
        """Return the rows with others for some clients.

        Args:
            clients: their numbers.
            array: their new rows, [n, ...].

        Returns:
            Rows of all clients, which share those that stay.

        Raises:
            ValueError: if there is not one row for each of `clients`.

        Example:
            >>> import numpy as np
            >>> from jsplit.rounds import HostRows
            >>> rows = HostRows([*np.zeros((3, 2))])
            >>> np.asarray(rows.put([2], np.ones((1, 2)))).tolist()
            [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
        """
        rows = [*self._rows]
        for k, row in zip(clients, as_numpy(array), strict=True):
            # A copy: a view would keep the rows of the whole round.
            rows[k] = np.array(row)
        return HostRows(rows)


def as_numpy(array: PyTree) -> np.ndarray:
    """An array on the host."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        raise ValueError(
            "`on_host` is for one process: here other processes hold a part of what the "
            "clients have of their own."
        )
    return np.asarray(array)


# Keys stay what they are: NumPy has none, and those of all clients are few bytes.


def rows_on_host(x: PyTree) -> PyTree:
    """An array of all clients as rows on the host; rows themselves are not copied."""
    return x if isinstance(x, HostRows) or is_key(x) else HostRows([*as_numpy(x)])


def take_rows(clients: Sequence[int], x: PyTree) -> PyTree:
    return x.take(clients) if isinstance(x, HostRows) else x[jnp.asarray(clients)]


def put_rows(clients: Sequence[int], x: PyTree, new: PyTree) -> PyTree:
    if isinstance(x, HostRows):
        return x.put(clients, new)
    return x.at[jnp.asarray(clients)].set(new)

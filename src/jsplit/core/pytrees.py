"""Names for pytrees of the user's, where a signature takes one.

They say what a tree is for; what is in it is the user's own affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Python has no type for "a pytree". The alias marks where the user's own
# containers pass through; everything that jsplit makes itself has a type of
# its own.
PyTree = Any
Params = PyTree
State = PyTree
Fields = Mapping[str, PyTree]

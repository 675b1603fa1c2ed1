"""Tests compile a great deal and compute little, so the compiler is told not to optimise.

`XLA_FLAGS= python -m pytest` runs them as users run jsplit, at several times the cost.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

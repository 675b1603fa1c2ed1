"""The versions of what a party computes with, which it says to others and in its log."""

from __future__ import annotations

import platform
import re
import sys

import jax
import numpy as np


def own_versions() -> dict[str, str]:
    """By name, the versions of this process, in the form in which they are sent."""
    found = {
        # Not imported: the package has imported this file, and is whole by now.
        "jsplit": str(getattr(sys.modules["jsplit"], "__version__", "unknown")),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    # A build of one's own may be called anything; others take letters, digits and
    # these three signs, forty of them.
    return {n: re.sub(r"[^0-9A-Za-z.+-]", "-", v)[:40] for n, v in found.items()}

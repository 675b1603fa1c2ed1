"""Training one topology: a step as a walk of operations, and the interpreters that run it.

`kinds`, `walk` and `store` say what there is and where it lies; `step`,
`update` and `walks` what is computed; `executor` how turns run; `fused`
and `messages` are the two interpreters.
"""

from jsplit.training.export import export
from jsplit.training.fused import fused
from jsplit.training.messages import messages
from jsplit.training.staleness import stale
from jsplit.training.trained_files import restore_trained, save_trained

__all__ = [
    "export",
    "fused",
    "messages",
    "restore_trained",
    "save_trained",
    "stale",
]

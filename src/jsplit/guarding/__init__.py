"""Signs, in what comes back to a party, that its part is trained for something else."""

from jsplit.guarding.chain import chain_rule
from jsplit.guarding.directions import coherence
from jsplit.guarding.evidence import Evidence, Guard
from jsplit.guarding.tally import Tally, begin, judge, note

__all__ = [
    "Evidence",
    "Guard",
    "Tally",
    "begin",
    "chain_rule",
    "coherence",
    "judge",
    "note",
]

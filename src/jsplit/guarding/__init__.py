"""Signs, in what comes back to a party, that its part is trained for something else."""

from jsplit.guarding.chain_rule import chain_rule
from jsplit.guarding.coherence import coherence
from jsplit.guarding.evidence import Evidence, Guard
from jsplit.guarding.tally import Tally, begin, evidence, note

__all__ = [
    "Evidence",
    "Guard",
    "Tally",
    "begin",
    "chain_rule",
    "coherence",
    "evidence",
    "note",
]

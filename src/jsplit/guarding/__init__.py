"""Signs, in what comes back to a party, that its part is trained for something else."""

from jsplit.guarding.chain import chain_rule
from jsplit.guarding.directions import coherence, one_way
from jsplit.guarding.evidence import Evidence, Guard
from jsplit.guarding.in_a_row import Alarms, needed
from jsplit.guarding.tally import Tally, begin, judge, measured, note

__all__ = [
    "Alarms",
    "Evidence",
    "Guard",
    "Tally",
    "begin",
    "chain_rule",
    "coherence",
    "judge",
    "measured",
    "needed",
    "note",
    "one_way",
]

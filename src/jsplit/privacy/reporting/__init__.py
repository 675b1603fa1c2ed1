"""The report: every attack, at every cut, with and without defences, and what was not tested."""

from jsplit.privacy.reporting.attempt import Attempt, Given
from jsplit.privacy.reporting.by_cut import leakage
from jsplit.privacy.reporting.pictures import Picture
from jsplit.privacy.reporting.records import Exposure, Finding, Outcome, Untested
from jsplit.privacy.reporting.registered import attempts
from jsplit.privacy.reporting.reporting import report
from jsplit.privacy.reporting.whole import Report

__all__ = [
    "Attempt",
    "Exposure",
    "Finding",
    "Given",
    "Outcome",
    "Picture",
    "Report",
    "Untested",
    "attempts",
    "leakage",
    "report",
]

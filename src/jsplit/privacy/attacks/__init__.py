"""Attacks: functions of what one party has seen, each with a control that must fall to chance."""

from jsplit.privacy.attacks import labels
from jsplit.privacy.attacks.attack import best
from jsplit.privacy.attacks.labels import *  # noqa: F403

__all__ = ["best"]
__all__ += labels.__all__

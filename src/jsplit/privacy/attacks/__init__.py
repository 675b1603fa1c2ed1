"""Attacks: functions of what one party has seen, each with a control that must fall to chance."""

from jsplit.privacy.attacks.attack import best

__all__ = ["best"]

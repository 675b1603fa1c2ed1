"""What each party sees, how much that gives away, what protects it, and what is guaranteed."""

from jsplit.privacy import attacks, measures
from jsplit.privacy.attacks import *  # noqa: F403
from jsplit.privacy.measures import *  # noqa: F403
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

__all__ = ["Adversary", "Budget", "Score", "Traffic"]
__all__ += measures.__all__
__all__ += attacks.__all__

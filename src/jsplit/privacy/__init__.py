"""What each party sees, how much that gives away, what protects it, and what is guaranteed."""

from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic
from jsplit.privacy.viewing import Gives, Possible, Seen, Together, View, Views, views

__all__ = [
    "Adversary",
    "Budget",
    "Gives",
    "Possible",
    "Score",
    "Seen",
    "Together",
    "Traffic",
    "View",
    "Views",
    "views",
]

"""What each party sees, how much that gives away, what protects it, and what is guaranteed."""

from jsplit.privacy.attacks import best
from jsplit.privacy.attacks.labels import (
    cosine_attack,
    direction_clusters,
    gradient_matching,
    malicious,
    model_completion,
    norm_attack,
)
from jsplit.privacy.scores import Adversary, Budget, Score
from jsplit.privacy.traffic import Traffic

__all__ = [
    "Adversary",
    "Budget",
    "Score",
    "Traffic",
    "best",
    "cosine_attack",
    "direction_clusters",
    "gradient_matching",
    "malicious",
    "model_completion",
    "norm_attack",
]

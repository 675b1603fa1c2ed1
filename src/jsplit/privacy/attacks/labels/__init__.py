"""Attacks on labels, by whoever gets a cotangent that depends on labels it does not hold."""

from jsplit.privacy.attacks.labels.clusters import direction_clusters
from jsplit.privacy.attacks.labels.completion import model_completion
from jsplit.privacy.attacks.labels.cosine import cosine_attack
from jsplit.privacy.attacks.labels.matching import gradient_matching
from jsplit.privacy.attacks.labels.norm import norm_attack
from jsplit.privacy.attacks.labels.speeding import malicious

__all__ = [
    "cosine_attack",
    "direction_clusters",
    "gradient_matching",
    "malicious",
    "model_completion",
    "norm_attack",
]

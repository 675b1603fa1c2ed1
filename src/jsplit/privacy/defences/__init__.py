"""What protects: noise and clipping of what crosses, and what they declare of themselves."""

from jsplit.privacy.defences.activation_noise import gaussian, laplace
from jsplit.privacy.defences.class_noise import marvell
from jsplit.privacy.defences.decorrelation import nopeek
from jsplit.privacy.defences.norm_noise import isotropic, max_norm

__all__ = [
    "gaussian",
    "isotropic",
    "laplace",
    "marvell",
    "max_norm",
    "nopeek",
]

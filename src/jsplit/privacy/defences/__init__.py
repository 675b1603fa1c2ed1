"""What protects: noise and clipping of what crosses, and what they declare of themselves."""

from jsplit.privacy.defences.activation_noise import gaussian, laplace
from jsplit.privacy.defences.bottleneck import information_bottleneck
from jsplit.privacy.defences.class_noise import marvell
from jsplit.privacy.defences.decorrelation import nopeek
from jsplit.privacy.defences.label_answers import (
    label_response,
    response_mechanism,
    unbiased_loss,
)
from jsplit.privacy.defences.least_records import smallest_batch
from jsplit.privacy.defences.norm_noise import isotropic, max_norm
from jsplit.privacy.defences.private_training import private

__all__ = [
    "gaussian",
    "information_bottleneck",
    "isotropic",
    "label_response",
    "laplace",
    "marvell",
    "max_norm",
    "nopeek",
    "private",
    "response_mechanism",
    "smallest_batch",
    "unbiased_loss",
]

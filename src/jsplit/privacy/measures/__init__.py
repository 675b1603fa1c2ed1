"""How much a value gives away, in numbers with intervals."""

from jsplit.privacy.measures.auc import leak_auc
from jsplit.privacy.measures.batched import Dependence, dependence
from jsplit.privacy.measures.bootstrap import interval
from jsplit.privacy.measures.bound import information_bound
from jsplit.privacy.measures.correlation import distance_correlation
from jsplit.privacy.measures.estimate import Estimate
from jsplit.privacy.measures.images import psnr, squared_error, ssim
from jsplit.privacy.measures.information import mutual_information
from jsplit.privacy.measures.probes import Probe, probe
from jsplit.privacy.measures.rates import accuracy, balanced_accuracy, rate
from jsplit.privacy.measures.reconstructed import Reconstruction, reconstruction

__all__ = [
    "Dependence",
    "Estimate",
    "Probe",
    "Reconstruction",
    "accuracy",
    "balanced_accuracy",
    "dependence",
    "distance_correlation",
    "information_bound",
    "interval",
    "leak_auc",
    "mutual_information",
    "probe",
    "psnr",
    "rate",
    "reconstruction",
    "squared_error",
    "ssim",
]

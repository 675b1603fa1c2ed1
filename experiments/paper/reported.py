"""What the paper reports in its Tables 1 and 2, per client, at 100 clients and at 500.

Vepakomma et al., `Split learning for health <https://arxiv.org/abs/1812.00564>`_, 2018.
"""

CLIENTS = (100, 500)
PAPER = {
    "large-batch SGD": {"TFlop": (29.4, 5.89), "GB": (13.0, 14.0)},
    "federated": {"TFlop": (29.4, 5.89), "GB": (3.0, 2.4)},
    "split": {"TFlop": (0.1548, 0.03), "GB": (6.0, 1.2)},
}

# What others report of privacy, by the same names as the rows of privacy.py.

# Li et al., `Label leakage and protection in two-party split learning
# <https://arxiv.org/abs/2102.08504>`_, 2022, notebooks of their code: Criteo, dense 128-128-128 |
# 128-128-128, batch 1024, 5 epochs. The largest leak AUC of norms over batches.
CRITEO = {
    "none": {"test AUC": 0.781, "norm max": 0.951, "cosine": 1.0},
    "marvell 0.25": {"test AUC": 0.776, "norm max": 0.739},
    "marvell 1": {"test AUC": 0.769, "norm max": 0.617},
    # The cosine is read off a curve over time.
    "marvell 4": {"test AUC": 0.759, "norm max": 0.558, "cosine": 0.63},
    "isotropic 1": {"test AUC": 0.777, "norm max": 0.903},
    "isotropic 2.5": {"test AUC": 0.771, "norm max": 0.671},
    "isotropic 5": {"test AUC": 0.762, "norm max": 0.570},
}
# Titcombe et al., `Practical defences against model inversion attacks for split neural networks
# <https://arxiv.org/abs/2104.05743>`_, 2021: MNIST, 500 numbers after tanh, NoPeek 0.1 with Laplace
# noise 0.5, of validation records, by squared distances. Plain accuracy is about .978.
# Vepakomma et al., `NoPeek <https://arxiv.org/abs/2008.09161>`_, 2020: colorectal histology, from
# .96 to .19 and from .92 to .33.
NOPEEK = {
    "none": {"dCor": (0.96, 0.92), "accuracy": (0.978,)},
    "nopeek": {"dCor": (0.19, 0.33, 0.525), "accuracy": (0.975,)},
}

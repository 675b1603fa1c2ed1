"""What the paper reports in its Tables 1 and 2, per client, at 100 clients and at 500.

Vepakomma et al., `Split learning for health <https://arxiv.org/abs/1812.00564>`_, 2018.
"""

CLIENTS = (100, 500)
PAPER = {
    "large-batch SGD": {"TFlop": (29.4, 5.89), "GB": (13.0, 14.0)},
    "federated": {"TFlop": (29.4, 5.89), "GB": (3.0, 2.4)},
    "split": {"TFlop": (0.1548, 0.03), "GB": (6.0, 1.2)},
}

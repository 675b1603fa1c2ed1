"""What is guaranteed: closed forms, accountants, statements about a topology, and audits."""

from jsplit.privacy.guarantees.auditing import Audit, audit
from jsplit.privacy.guarantees.gaussian import (
    composed_mu,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
)
from jsplit.privacy.guarantees.grid import grid_laplace, grid_noise, on_grid
from jsplit.privacy.guarantees.mechanism import Mechanism
from jsplit.privacy.guarantees.pure import (
    laplace_epsilon,
    response_epsilon,
    response_keep,
)
from jsplit.privacy.guarantees.sampled import counted_epsilon, sampled_epsilon
from jsplit.privacy.guarantees.stating import Guarantee, Statement, guarantee

__all__ = [
    "Audit",
    "Guarantee",
    "Mechanism",
    "Statement",
    "audit",
    "composed_mu",
    "counted_epsilon",
    "gaussian_delta",
    "gaussian_epsilon",
    "gaussian_mu",
    "grid_laplace",
    "grid_noise",
    "guarantee",
    "laplace_epsilon",
    "on_grid",
    "response_epsilon",
    "response_keep",
    "sampled_epsilon",
]

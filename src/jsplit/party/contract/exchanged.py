"""What parties exchange beside values, as an agreement says it: norms, the loss, faults."""

from __future__ import annotations

from jsplit.party.contract.agreement_attributes import AgreementRecord
from jsplit.topology.graph import Topology
from jsplit.training.config import Config


def exchanging(agreed: AgreementRecord, topology: Topology) -> Config:
    """The configuration of a step as far as it says what is exchanged.

    Args:
        agreed: what the parties have agreed on.
        topology: with none of their models.
    """
    return Config(
        topology,
        {},
        {},
        "residuals",
        agreed.microbatches,
        nonfinite=agreed.nonfinite,
        norms=agreed.norms,
        wants_loss=agreed.wants_loss,
    )

"""One party over the network: what all agree on, and one process for each."""

from jsplit.party.connection.network import Missing
from jsplit.party.contract.agreement import Agreement, foreign, read, write
from jsplit.party.contract.draft import agreement
from jsplit.party.contract.turns import turns
from jsplit.party.infer import evaluate, predict
from jsplit.party.process import Metrics, Result
from jsplit.party.replay import batches
from jsplit.party.run import run
from jsplit.wire.certs import Credentials, PlaintextWithoutIdentity, certs
from jsplit.wire.certs import read as credentials
from jsplit.wire.rendezvous import Refused

__all__ = [
    "Agreement",
    "Credentials",
    "Metrics",
    "Missing",
    "PlaintextWithoutIdentity",
    "Refused",
    "Result",
    "agreement",
    "batches",
    "certs",
    "credentials",
    "evaluate",
    "foreign",
    "predict",
    "read",
    "run",
    "turns",
    "write",
]

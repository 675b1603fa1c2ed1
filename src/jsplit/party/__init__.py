"""One party over the network: what all agree on, and one process for each.

Inside: `contract` (what is agreed), `compute` (a party's own arithmetic), `connection`.
"""

from jsplit.party.connection.network import Missing
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.draft import agreement
from jsplit.party.contract.files import read, write
from jsplit.party.contract.placeholders import foreign
from jsplit.party.contract.turns import turns
from jsplit.party.infer import evaluate, predict
from jsplit.party.results import Metrics, Result
from jsplit.party.run import run

# Who a party is belongs to the wire, and is offered here since `run` asks for it.
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

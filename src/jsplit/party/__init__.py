"""One party over the network: what all agree on, and one process for each."""

from jsplit.guarding import Evidence, Guard
from jsplit.party.by_epochs import fit
from jsplit.party.connection.interrupts import Missing
from jsplit.party.contract.agreement import Agreement
from jsplit.party.contract.draft import agreement
from jsplit.party.contract.epochs import epochs
from jsplit.party.contract.files import read, write
from jsplit.party.contract.placeholders import foreign
from jsplit.party.contract.turns import turns
from jsplit.party.epochs_of_run import Fitted
from jsplit.party.infer import evaluate, predict
from jsplit.party.matching import align, tags
from jsplit.party.replay import batches
from jsplit.party.results import Metrics, Result
from jsplit.party.running import run
from jsplit.party.serving.remote import RemoteSession
from jsplit.party.serving.serve import Served, serve
from jsplit.party.serving.session import session
from jsplit.party.serving.words import Model
from jsplit.wire import MemoryTransport, NotYet, Refused, Transport
from jsplit.wire.certs import Credentials, PlaintextWithoutIdentity, certs
from jsplit.wire.certs import read as credentials  # the inverse of `certs`

__all__ = ["Agreement", "Credentials", "Evidence", "Guard", "MemoryTransport"]
__all__ += ["Metrics", "Missing", "NotYet", "PlaintextWithoutIdentity", "Refused"]
__all__ += ["Model", "RemoteSession", "Result", "Served", "Transport"]
__all__ += ["Fitted", "agreement", "align", "batches", "certs", "credentials", "epochs"]
__all__ += ["evaluate", "fit", "foreign", "predict", "read", "run", "serve", "session"]
__all__ += ["tags", "turns", "write"]


def __dir__() -> list[str]:
    return [*__all__]

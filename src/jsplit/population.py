"""Who has which records, and who reads which in which step: a door to the room `populations`."""

from jsplit.populations.partitions import dirichlet, everyone, grouped, iid, quantity
from jsplit.populations.poisson import Poisson, poisson
from jsplit.populations.population import Population
from jsplit.populations.round import Round
from jsplit.populations.stored import Stored, stored

__all__ = [
    "Poisson",
    "Population",
    "Round",
    "Stored",
    "dirichlet",
    "everyone",
    "grouped",
    "iid",
    "poisson",
    "quantity",
    "stored",
]


def __dir__() -> list[str]:
    return [*__all__]

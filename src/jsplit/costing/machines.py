"""For what a cut is chosen: the machines, the network, and what happens on the way."""

from __future__ import annotations

from math import inf
from numbers import Real
from typing import NamedTuple

from jsplit.core.base import Link
from jsplit.core.checks import shown
from jsplit.costing.leak_scores import Leakage, check_leakage
from jsplit.costing.party_cost import check_mode


class Device(NamedTuple):
    """A computer.

    Attributes:
        flops: Floating-point operations a second that it sustains.
        memory: Bytes that it has for training.

    Example:
        >>> import jsplit
        >>> jsplit.Device(flops=50e9, memory=4e9).memory
        4000000000.0
    """

    flops: float
    memory: float = inf  # without a limit every cut fits


class Network(NamedTuple):
    """A connection.

    Attributes:
        bits: Bits a second, each way.
        latency: Seconds that a message takes one way, however small it is.

    Example:
        >>> import jsplit
        >>> jsplit.Network(bits=100e6, latency=0.02).latency
        0.02
    """

    bits: float  # as networks are sold; all sizes are in bytes
    latency: float = 0.0


class Setting(NamedTuple):
    """For what a cut is chosen: the arguments of `plan` that are not about the model.

    Attributes:
        client: What the client can do.
        link: The network between client and server.
        server: What the server can do, if it counts.
        encodings: What happens to the activation and to its cotangent on the
            way.
        backward: The backward mode.
        leakage: A score of each point, if asked for.
    """

    client: Device
    link: Network
    server: Device | None
    encodings: tuple[Link | None, Link | None]
    backward: str
    leakage: Leakage | None


def check_setting(
    client: Device,
    link: Network,
    server: Device | None,
    encoding: Link | tuple[Link | None, Link | None],
    backward: str,
    leakage: Leakage | None,
) -> Setting:
    """The arguments of `plan` that are not about the model, checked.

    Raises:
        ValueError: Naming the argument that does not fit.
    """
    _check_numbers("client", client, Device)
    _check_numbers("link", link, Network)
    if server is not None:
        _check_numbers("server", server, Device)

    # A link is a tuple itself, so it is asked for first.
    encodings: tuple = ()
    if isinstance(encoding, Link):
        encodings = (encoding, encoding)
    elif isinstance(encoding, (tuple, list)):
        encodings = tuple(encoding)
    if len(encodings) != 2 or not all(
        x is None or isinstance(x, Link) for x in encodings
    ):
        raise ValueError(
            "`encoding` must be a Link or a pair of them (activation, cotangent), "
            f"got {shown(encoding)}."
        )
    check_mode(backward)
    scores = check_leakage(leakage)
    return Setting(client, link, server, encodings, backward, scores)


def _check_numbers(
    name: str, value: Device | Network, wanted: type[Device] | type[Network]
) -> None:
    if not isinstance(value, wanted):
        raise ValueError(
            f"`{name}` must be a jsplit.{wanted.__name__}, got {type(value).__name__}."
        )
    rate, other = value
    numbers = isinstance(rate, Real) and isinstance(other, Real)
    # A rate divides. A latency may be 0, and memory infinite; NaN fails either test.
    if not numbers or not rate > 0 or not other >= 0:
        raise ValueError(f"`{name}` must be positive numbers, got {value}.")

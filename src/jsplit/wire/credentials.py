"""Who a party is, as its certificate says it, and in which files that lies.

A certificate names its party twice: in a URI, which whoever meets the party compares with the
agreement, and in a host name, which TLS checks where the party is dialled. No message says who
sent it. The files are read in `credential_files`; a throw-away authority to try all of this with
is made in `certs`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import quote


@dataclass(frozen=True)
class Credentials:
    """A party's certificate and key, and the authorities that it trusts, all in PEM.

    `jsplit.party.credentials` reads them from files and checks that they fit each other.

    Attributes:
        certificate: the party's certificate, followed by those between it and the authority.
        key: the private key of the certificate, without a password; never printed.
        authority: the certificates of all authorities whose parties are believed.
        denied: serial numbers of certificates that are not believed, whoever made them.
        again: gives the credentials as they are now, where they come from files.

    Examples:
        >>> import jsplit
        >>> own = jsplit.party.Credentials(b"certificate", b"secret", b"authority")
        >>> own
        Credentials(certificate=b'certificate', authority=b'authority')
    """

    certificate: bytes
    # Left out of the repr: records end up in logs and tracebacks.
    key: bytes = field(repr=False)
    authority: bytes
    denied: frozenset[int] = field(default=frozenset(), repr=False)
    # Two that hold the same are equal, wherever they come from.
    again: Callable[[], Credentials] | None = field(
        default=None, repr=False, compare=False
    )

    def current(self) -> Credentials:
        """Give what counts for a connection that is made now.

        Returns:
            The same object for as long as the files say the same.

        Examples:
            >>> import jsplit
            >>> own = jsplit.party.Credentials(b"certificate", b"secret", b"authority")
            >>> own.current() is own
            True
        """
        return self if self.again is None else self.again()


@dataclass(frozen=True)
class PlaintextWithoutIdentity:
    """Neither encryption nor identity: whoever can connect is believed.

    For parties on one closed machine, or within a tunnel that encrypts and identifies. Its name
    says what is given up, so that nobody chooses it by accident.

    Attributes:
        party: whom this party says it is.

    Examples:
        >>> import jsplit
        >>> jsplit.party.PlaintextWithoutIdentity("hospital").party
        'hospital'
    """

    party: str

    def current(self) -> PlaintextWithoutIdentity:
        """Give what counts for a connection that is made now: the same as ever.

        Returns:
            This object.

        Examples:
            >>> import jsplit
            >>> jsplit.party.PlaintextWithoutIdentity("lab").current().party
            'lab'
        """
        return self


Trust = Credentials | PlaintextWithoutIdentity
"""By what a party is known, and knows others."""


def uri_of(party: str) -> str:
    """Give the URI in a party's certificate, unless the agreement names another.

    Args:
        party: its name.

    Returns:
        By what all whom it meets know it.

    Examples:
        >>> from jsplit.wire import uri_of
        >>> uri_of("north lab")
        'jsplit://party/north%20lab'
    """
    return f"jsplit://party/{quote(party, safe='')}"


def host_of(party: str) -> str:
    """Give the host name in a party's certificate, by which those that dial it know it.

    Args:
        party: its name.

    Returns:
        A DNS name, which nobody has to resolve.

    Examples:
        >>> from jsplit.wire import host_of
        >>> host_of("server")
        'server.party.jsplit'
    """
    # A party may be called anything, a DNS label not: others are called by a digest. No plain
    # name begins as a digest's does, so no two parties share one.
    plain = re.fullmatch(r"(?!x-)[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", party)
    label = party if plain else "x-" + sha256(party.encode()).hexdigest()[:40]
    return f"{label}.party.jsplit"


def certificate_name(party: str) -> str:
    """Give the name of the file that holds a party's certificate."""
    return f"{_file_name(party)}.crt"


def key_name(party: str) -> str:
    """Give the name of the file that holds a party's private key."""
    return f"{_file_name(party)}.key"


def _file_name(party: str) -> str:
    # A party called `ca` would lie where the authority does, and on some file systems one called
    # `CA` too. Its first letter is quoted, which no other party's is.
    if f"{party.lower()}.crt" == AUTHORITY_NAME:
        return f"%{ord(party[0]):02X}{party[1:]}"
    # Quoted: a party called `../x` has a file in the folder like all others.
    return quote(party, safe="")


AUTHORITY_NAME = "ca.crt"

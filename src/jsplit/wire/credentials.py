"""Who a party is, as its certificate says it: credentials read from files, and checked.

A certificate names its party twice: in a URI, which a party that listens reads, and in a host
name, which a party that dials checks. No message says who sent it. A throw-away authority to try
all of this with is made in `certs`. Needs the extra `jsplit[grpc]`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from cryptography import x509


@dataclass(frozen=True)
class Credentials:
    """A party's certificate and key, and the authorities that it trusts, all in PEM.

    `jsplit.party.credentials` reads them from files and checks that they fit each other.

    Attributes:
        certificate: the party's certificate, followed by those between it and the authority.
        key: the private key of the certificate, without a password; never printed.
        authority: the certificates of all authorities whose parties are believed.

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


Trust = Credentials | PlaintextWithoutIdentity
"""By what a party is known, and knows others."""


def uri_of(party: str) -> str:
    """Give the URI in a party's certificate, unless the agreement names another.

    Args:
        party: its name.

    Returns:
        By what those that listen know it.

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
    # Quoted: a party called `../x` has a file in the folder like all others.
    return f"{quote(party, safe='')}.crt"


def key_name(party: str) -> str:
    """Give the name of the file that holds a party's private key."""
    return f"{quote(party, safe='')}.key"


AUTHORITY_NAME = "ca.crt"


def read(folder: str | os.PathLike[str], party: str) -> Credentials:
    """Read a party's credentials from a folder, and check that connections can be made with them.

    The files are those that `jsplit.party.certs` writes, or others' of the same names:
    `<party>.crt`, `<party>.key` and `ca.crt`, all in PEM.

    Args:
        folder: the folder that holds the three files.
        party: the party's name.

    Returns:
        The credentials, for `jsplit.party.run` and its like.

    Raises:
        ValueError: naming the file that is missing, or that cannot be used, and why.

    Examples:
        >>> import jsplit, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> files = jsplit.party.certs(folder, ["hospital", "server"])
        >>> own = jsplit.party.credentials(folder, "hospital")
        >>> own.certificate.startswith(b"-----BEGIN CERTIFICATE-----")
        True
    """
    folder = Path(folder)
    certificate = folder / certificate_name(party)
    key = folder / key_name(party)
    authority = folder / AUTHORITY_NAME
    for file in (certificate, key, authority):
        if not file.is_file():
            raise ValueError(
                f"there is no file {file}; `jsplit certs` makes certificates to try with."
            )
    found = Credentials(
        certificate.read_bytes(), key.read_bytes(), authority.read_bytes()
    )
    _check(found, certificate, key, authority)
    return found


def _check(own: Credentials, certificate: Path, key: Path, authority: Path) -> None:
    """Refuse credentials with which no connection could be made.

    TLS would say only that the handshake failed, and to the log of gRPC.

    Args:
        own: the credentials.
        certificate: the file of the certificate, for the message.
        key: the file of the key.
        authority: the file of the authorities.

    Raises:
        ValueError: naming one of the files.
    """
    chain = _certificates(certificate, own.certificate)
    authorities = _certificates(authority, own.authority)
    _check_key(own.key, key, chain[0], certificate)
    # What follows the first certificate of a chain is checked by whoever builds the path; of
    # several authorities one that is valid is enough, others may have run out.
    _check_time(chain[:1], certificate)
    _check_time(authorities, authority)


def _certificates(file: Path, data: bytes) -> list[x509.Certificate]:
    # Imported where it is used, here and below: whoever trains in one process needs no extra.
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ValueError(f"{file} holds no certificate in PEM: {error}") from None


def _check_key(data: bytes, file: Path, of: x509.Certificate, named: Path) -> None:
    """Refuse a key that TLS here cannot use, or that is not the certificate's."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        secret = serialization.load_pem_private_key(data, None)
    # A TypeError says that the key has a password: nobody is there to be asked for it.
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"{file} holds no private key in PEM without a password: {error}"
        ) from None
    # Ed25519 is a fine key, but the TLS within gRPC does not take it.
    if not isinstance(secret, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ValueError(
            f"{file} holds a {type(secret).__name__}; "
            "TLS here takes keys on the curve P-256, and RSA."
        )
    if secret.public_key() != of.public_key():
        raise ValueError(f"{file} is not the key of the certificate in {named}.")


def _check_time(certificates: list[x509.Certificate], file: Path) -> None:
    """Refuse certificates none of which is valid now."""
    now = datetime.now(UTC)
    if any(
        x.not_valid_before_utc <= now <= x.not_valid_after_utc for x in certificates
    ):
        return
    first = certificates[0]
    begin, end = first.not_valid_before_utc, first.not_valid_after_utc
    raise ValueError(
        f"{file} is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, "
        f"and now it is {now:%Y-%m-%d %H:%M} UTC."
    )

"""Who a party is, as its certificate says it, and a throw-away authority to try it with.

A certificate names its party twice: in a URI, which a party that listens reads, and in a host name, which a party that
dials checks. No message says who sent it. Needs the extra `jsplit[grpc]`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True)
class Credentials:
    """A party's certificate and key, and the authorities that it trusts, all in PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
    authority: bytes


@dataclass(frozen=True)
class PlaintextWithoutIdentity:
    """Neither encryption nor identity: whoever can connect is believed. For a closed machine or an outer tunnel alone.

    Attributes:
        party: whom this party says it is.
    """

    party: str


Trust = Credentials | PlaintextWithoutIdentity


def uri_of(party: str) -> str:
    """The URI in a party's certificate, unless the agreement names another."""
    return f"jsplit://party/{quote(party, safe='')}"


def host_of(party: str) -> str:
    """The host name in a party's certificate, by which those that dial it know it."""
    plain = re.fullmatch(r"(?!x-)[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", party)
    return f"{party if plain else 'x-' + sha256(party.encode()).hexdigest()[:40]}.party.jsplit"


def read(folder: str | os.PathLike, party: str) -> Credentials:
    """The credentials that `certs` wrote for a party, or that others issued, in files of the same names.

    Raises:
        ValueError: naming the file that is missing, or that cannot be used, and why.
    """
    folder = Path(folder)
    files = [
        folder / f"{quote(party, safe='')}.crt",
        folder / f"{quote(party, safe='')}.key",
        folder / "ca.crt",
    ]
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"there is no file {file}; `jsplit certs` makes certificates to try with."
            )
    found = Credentials(*(file.read_bytes() for file in files))
    _check(found, *files)
    return found


def _check(own: Credentials, certificate: Any, key: Any, authority: Any) -> None:
    """Refuse credentials that no connection could be made with; else TLS would say only that the handshake failed.

    Args:
        own: the credentials.
        certificate, key, authority: what the message calls each.

    Raises:
        ValueError: naming one of them.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    found, now = {}, datetime.now(UTC)
    for name, data in ((certificate, own.certificate), (authority, own.authority)):
        try:
            found[name] = x509.load_pem_x509_certificates(data)
        except ValueError as error:
            raise ValueError(f"{name} holds no certificate in PEM: {error}") from None
    try:
        secret = serialization.load_pem_private_key(own.key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"{key} holds no private key in PEM without a password: {error}"
        ) from None
    if not isinstance(secret, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ValueError(
            f"{key} holds a {type(secret).__name__}; TLS here takes keys on the curve P-256, and RSA."
        )
    if secret.public_key() != found[certificate][0].public_key():
        raise ValueError(f"{key} is not the key of the certificate in {certificate}.")
    for name, those in (
        (certificate, found[certificate][:1]),
        (authority, found[authority]),
    ):
        if not any(
            x.not_valid_before_utc <= now <= x.not_valid_after_utc for x in those
        ):
            begin, end = those[0].not_valid_before_utc, those[0].not_valid_after_utc
            raise ValueError(
                f"{name} is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, and now it is {now:%Y-%m-%d %H:%M} UTC."
            )


def certs(
    folder: str | os.PathLike, parties: Sequence[str], *, days: int = 30
) -> list[Path]:
    """Make an authority and a certificate for every party, to try with: `ca.crt`, `<party>.crt`, `<party>.key`.

    The authority's key is forgotten, so no further certificate can be made. A party needs its own two files and `ca.crt`.

    Returns:
        The files written. Keys are readable by their owner alone.

    Raises:
        ValueError: if `parties` is empty or names one twice, or if a file is there already.
    """
    if not parties or len({*parties}) < len(parties) or not all(parties):
        raise ValueError(
            f"`parties` must name one or several different parties, got {list(parties)}."
        )
    made = authority(parties, days)
    files = {"ca.crt": made[parties[0]].authority}
    for party, own in made.items():
        files |= {
            f"{quote(party, safe='')}.crt": own.certificate,
            f"{quote(party, safe='')}.key": own.key,
        }
    Path(folder).mkdir(parents=True, exist_ok=True)
    if there := [name for name in files if (Path(folder) / name).exists()]:
        raise ValueError(
            f"`folder` {folder} has a {there[0]} already; it is not written over."
        )
    for name, data in files.items():
        handle = os.open(
            Path(folder) / name,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL,
            0o600 if name.endswith(".key") else 0o644,
        )
        with os.fdopen(handle, "wb") as f:
            f.write(data)
    return [Path(folder) / name for name in files]


def authority(
    parties: Sequence[str], days: float = 30, *, start: datetime | None = None
) -> dict[str, Credentials]:
    """A new authority, and credentials by it for every party; valid for `days` from `start`, by default from now."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    begin = start or datetime.now(UTC) - timedelta(minutes=5)

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])

    def builder(
        subject: str, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        made = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("jsplit trial authority"))
        )
        made = made.public_key(key.public_key()).serial_number(
            x509.random_serial_number()
        )
        return made.not_valid_before(begin).not_valid_after(
            begin + timedelta(days=days)
        )

    def usage(**uses: bool) -> x509.KeyUsage:
        names = (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        )
        return x509.KeyUsage(**{name: uses.get(name, False) for name in names})

    def pem(x: x509.Certificate) -> bytes:
        return x.public_bytes(serialization.Encoding.PEM)

    root = ec.generate_private_key(ec.SECP256R1())
    whose = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    own = builder("jsplit trial authority", root).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    own = own.add_extension(
        usage(key_cert_sign=True, crl_sign=True), critical=True
    ).add_extension(whose, critical=False)
    top = pem(own.sign(root, hashes.SHA256()))
    found = {}
    for party in parties:
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.UniformResourceIdentifier(uri_of(party)),
            x509.DNSName(host_of(party)),
        ]
        made = builder(party, key).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True
        )
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        issued = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(whose)
        made = made.add_extension(
            usage(digital_signature=True), critical=True
        ).add_extension(issued, critical=False)
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        made = made.add_extension(x509.ExtendedKeyUsage(uses), critical=False).sign(
            root, hashes.SHA256()
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        found[party] = Credentials(pem(made), secret, top)
    return found

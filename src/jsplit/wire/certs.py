"""A throw-away authority, and certificates by it for every party, to try a run with.

In earnest the institutions have an authority of their own; what its certificates need is said in
docs/network.md, and stands here in code. What reads these files is in `credential_files`, and is
handed on here. Needs the extra `jsplit[grpc]`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from jsplit.wire.credential_files import read
from jsplit.wire.credentials import (
    AUTHORITY_NAME,
    Credentials,
    PlaintextWithoutIdentity,
    Trust,
    certificate_name,
    host_of,
    key_name,
    uri_of,
)

# Whoever trains in one process imports this file by way of `jsplit.party` and needs no
# cryptography, so each function imports it for itself.
if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = [
    "Credentials",
    "PlaintextWithoutIdentity",
    "Trust",
    "authority",
    "certs",
    "host_of",
    "read",
    "uri_of",
]

_AUTHORITY = "jsplit trial authority"


def certs(
    folder: str | os.PathLike[str], parties: Sequence[str], *, days: float = 30
) -> list[Path]:
    """Make an authority and a certificate by it for every party, to try a run with.

    Writes `ca.crt`, and for each party `<party>.crt` and `<party>.key`, all in PEM. The
    authority's key is forgotten at once, so no further certificate can be made by it. A party
    needs its own two files and `ca.crt`.

    Args:
        folder: where the files go; made if it is not there.
        parties: names, each once.
        days: how long the certificates are valid, from now on; 0.05 is about an hour.

    Returns:
        The files written. Keys are readable by their owner alone.

    Raises:
        ValueError: if `parties` is empty or names one twice, if `days` is not positive, or if a
            file is there already.

    Examples:
        >>> import jsplit, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> [file.name for file in jsplit.party.certs(folder, ["hospital", "server"])]
        ['ca.crt', 'hospital.crt', 'hospital.key', 'server.crt', 'server.key']
    """
    if not parties or len({*parties}) < len(parties) or not all(parties):
        raise ValueError(
            f"`parties` must name one or several different parties, got {list(parties)}."
        )
    # NaN is not larger than 0 either.
    if not days > 0:
        raise ValueError(f"`days` must be a positive number of days, got {days}.")
    made = authority(parties, days)
    files = {AUTHORITY_NAME: made[parties[0]].authority}
    for party, own in made.items():
        files[certificate_name(party)] = own.certificate
        files[key_name(party)] = own.key

    folder = Path(folder)
    # All are looked for before one is written: half a set by a new authority and half by an old
    # one would refuse each other.
    there = [name for name in files if (folder / name).exists()]
    if there:
        raise ValueError(
            f"`folder` {folder} has a {there[0]} already; it is not written over. The key of an "
            "authority is forgotten, so nobody can be added to it: name all parties at once, and "
            "a new folder."
        )
    # Keys of several parties are in it, and whoever may write there could put others in their
    # place.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, data in files.items():
        _write(folder / name, data, secret=name.endswith(".key"))
    return [folder / name for name in files]


def _write(file: Path, data: bytes, secret: bool) -> None:
    # The mode is given when the file is made. A `chmod` afterwards would leave a moment in which
    # everybody on the machine can read the key.
    mode = 0o600 if secret else 0o644
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as f:
        f.write(data)


def authority(
    parties: Sequence[str], days: float = 30, *, start: datetime | None = None
) -> dict[str, Credentials]:
    """Make a new authority, and credentials by it for every party.

    Args:
        parties: names, each once.
        days: how long the certificates are valid.
        start: from when on; by default from now.

    Returns:
        By party, its credentials.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    # Five minutes ago: the clocks of two machines do not agree to the second, and a certificate
    # that is not valid yet is refused.
    begin = start or datetime.now(UTC) - timedelta(minutes=5)
    end = begin + timedelta(days=days)

    root = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(root.public_key())
    own = _builder(_AUTHORITY, root, begin, end)
    # Critical, all of them: the verifier with which parties check each other by way of the lead
    # follows the rules of the web's authorities, which ask for that.
    own = own.add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    own = own.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    own = own.add_extension(identifier, critical=False)
    top = _pem(own.sign(root, hashes.SHA256()))

    found: dict[str, Credentials] = {}
    for party in parties:
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(party, key, begin, end)
        signed = _with_identity(made, party, identifier).sign(root, hashes.SHA256())
        found[party] = Credentials(_pem(signed), _key_pem(key), top)
    return found


def _builder(
    subject: str, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    """A certificate of the trial authority to which extensions are still to be added."""
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(_AUTHORITY))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _with_identity(
    made: x509.CertificateBuilder, party: str, issuer: x509.SubjectKeyIdentifier
) -> x509.CertificateBuilder:
    """The certificate of a party that listens or dials, or both."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    names = [
        x509.UniformResourceIdentifier(uri_of(party)),
        x509.DNSName(host_of(party)),
    ]
    # One certificate for both roles, since in a relay the same party is a client of the lead and
    # a server to others.
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    issued = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)
    made = made.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
    made = made.add_extension(_usage(digital_signature=True), critical=True)
    made = made.add_extension(issued, critical=False)
    return made.add_extension(x509.ExtendedKeyUsage(uses), critical=False)


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # X.509 takes 64 characters of a common name. Nobody reads it: a party is its URI and host.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _usage(
    *,
    digital_signature: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    from cryptography import x509

    # The class has no defaults: each of the nine uses is said to be meant or not.
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    # Without a password: a party starts again by itself after its machine did.
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

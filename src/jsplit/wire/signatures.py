"""Proofs between two parties that no TLS connects: signatures, and the certificates behind them.

`verify` checks what `sign` made, and `verified_uris` says who the key
belongs to. Used where a third party passes the keys on, and where gRPC
does not tell what TLS knows. Needs the extra `jsplit[grpc]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
)


def sign(key: PrivateKeyTypes, statement: bytes) -> bytes:
    """Sign with the key of a certificate; `verify` checks it.

    Raises:
        ValueError: if the key is of another kind than TLS here takes.
    """
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(statement, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(statement, _pss(), hashes.SHA256())
    raise ValueError(
        f"`key` must be an elliptic curve or RSA key, got {type(key).__name__}."
    )


def verify(certificate: x509.Certificate, signature: bytes, statement: bytes) -> None:
    """Check that `sign` made a signature with the key of a certificate.

    Raises:
        InvalidSignature: if it did not.
        ValueError: if the key is of another kind than TLS here takes.
    """
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, statement, _pss(), hashes.SHA256())
    else:
        raise ValueError(f"a certificate has a key of the kind {type(key).__name__}.")


def _pss() -> padding.PSS:
    # The same at both ends: with PSS the length of the salt is part of
    # what must agree.
    return padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.MAX_LENGTH)


def why_not_valid_now(
    chain: Sequence[x509.Certificate], authority: bytes
) -> str | None:
    """Say what is wrong with a certificate by the time alone.

    Args:
        chain: the certificate, and those between it and the authority, as far as known.
        authority: the certificates of trusted authorities, in PEM.

    Returns:
        Words; `None` if nothing is.
    """
    if not all(map(_is_valid_now, chain)):
        return "its certificate is not valid now"
    # None where others stand between the two that are not known.
    authorities = [
        top
        for top in x509.load_pem_x509_certificates(authority)
        if top.subject == chain[-1].issuer
    ]
    if authorities and not any(map(_is_valid_now, authorities)):
        return "the authority of its certificate is not valid now"
    return None


def _is_valid_now(certificate: x509.Certificate) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin <= datetime.now(UTC) <= end


def verified_uris(
    chain: Sequence[x509.Certificate], authority: bytes, *, strict: bool = True
) -> list[str]:
    """Give the URIs that a certificate names, once it is shown to be by a trusted authority.

    Args:
        chain: the certificate, and those between it and the authority.
        authority: the certificates of trusted authorities, in PEM.
        strict: whether all must have the extensions that those of the web have, or no more than
            TLS asks for.

    Returns:
        The URIs among its alternative names; none if it has none.

    Raises:
        VerificationError: if no valid path leads from it to an authority.
    """
    store = Store(x509.load_pem_x509_certificates(authority))
    # A verifier of clients, though the peer may listen elsewhere: one of
    # servers wants a host name, and there is none between parties that
    # never dial each other.
    policy = PolicyBuilder().store(store)
    if not strict:
        policy = policy.extension_policies(
            ca_policy=_authorities(), ee_policy=ExtensionPolicy.permit_all()
        )
    verifier = policy.build_client_verifier()
    verifier.verify(chain[0], list(chain[1:]))
    return _uris_in(chain[0])


def uris_of(certificate: bytes) -> list[str]:
    """Give the URIs that a party's own certificate names, whoever has signed it.

    Args:
        certificate: in PEM, with what leads to the authority after it.
    """
    return _uris_in(x509.load_pem_x509_certificates(certificate)[0])


def _uris_in(certificate: x509.Certificate) -> list[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return []
    return extension.value.get_values_for_type(x509.UniformResourceIdentifier)


def _authorities() -> ExtensionPolicy:
    """What TLS asks of those that issue: to be authorities, and no more."""
    # The verifier sees by itself to it that what is required here says so: else any party could
    # issue certificates in the name of the others.
    required = ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, Criticality.AGNOSTIC, None
    )
    return required.may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)


def _may_sign(
    policy: Policy, certificate: x509.Certificate, found: x509.KeyUsage | None
) -> None:
    if found is not None and not found.key_cert_sign:
        raise ValueError("it is by an authority that may not sign certificates")

"""Proofs between two parties that no TLS connects: signatures, and the certificates behind them.

`verify` checks what `sign` made, and `verified_uris` says who the key
belongs to. Used where a third party passes the keys on. Needs the extra
`jsplit[grpc]`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.verification import PolicyBuilder, Store


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


def verified_uris(chain: Sequence[x509.Certificate], authority: bytes) -> list[str]:
    """Give the URIs that a certificate names, once it is shown to be by a trusted authority.

    Args:
        chain: the certificate, and those between it and the authority.
        authority: the certificates of trusted authorities, in PEM.

    Returns:
        The URIs among its alternative names; none if it has none.

    Raises:
        VerificationError: if no valid path leads from it to an authority.
    """
    store = Store(x509.load_pem_x509_certificates(authority))
    # A verifier of clients, though the peer may listen elsewhere: one of
    # servers wants a host name, and there is none between parties that
    # never dial each other.
    verifier = PolicyBuilder().store(store).build_client_verifier()
    verifier.verify(chain[0], list(chain[1:]))
    try:
        extension = chain[0].extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return []
    return extension.value.get_values_for_type(x509.UniformResourceIdentifier)

"""Who listens, shown to who dials: TLS checks its host name, and this the URI in its certificate.

gRPC tells a party that dials nothing of the other's certificate but that its authority and its
host name are right. So the listener shows the certificate once more, with a signature over a
number that the dialling party has drawn and over the certificate by which TLS knows that party.
Whoever has another certificate of the same authority and host name, and passes all on to the right
listener, is known there by its own certificate: what is signed then is for it and no one else.
Needs the extra `jsplit[grpc]`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.verification import VerificationError

from jsplit.wire.credentials import Credentials
from jsplit.wire.denied import why_denied
from jsplit.wire.errors import RemoteProtocolError
from jsplit.wire.said import quoted
from jsplit.wire.signatures import sign, verified_uris, verify, why_not_valid_now

QUESTION = "jsplit-question-bin"
"""The metadata of gRPC in which the dialling party sends the number that it has drawn."""
CERTIFICATE, SIGNATURE = "jsplit-certificate-bin", "jsplit-signature-bin"
"""The metadata in which the listener answers."""
_SIZE = 32  # bytes of the number, so many that none is drawn twice
# A signature made for anything else with the same key, as for sealing, is none here.
_PURPOSE = b"jsplit listener 1"

Metadata = Sequence[tuple[str, str | bytes]]
"""What gRPC carries before a stream: names and values."""


def question() -> bytes:
    """Draw the number that a listener has to sign."""
    return os.urandom(_SIZE)


def _bytes_of(metadata: Metadata, name: str) -> bytes:
    """What metadata say under a name, nothing if it is not there."""
    found = [value for key, value in metadata if key == name]
    return found[0] if found and isinstance(found[0], bytes) else b""


def _statement(asked: bytes, dialler: x509.Certificate) -> bytes:
    """What the listener signs: of fixed lengths, so that no two are the same bytes."""
    return _PURPOSE + asked + dialler.fingerprint(hashes.SHA256())


def answer(
    own: Credentials, asked: Metadata, dialler: bytes
) -> tuple[tuple[str, bytes], ...]:
    """Show the party that dials who listens.

    Args:
        own: the listener's credentials.
        asked: what the dialling party has sent before the stream.
        dialler: its certificate in PEM, as TLS has shown it.

    Returns:
        What the listener sends before the stream; nothing if it was not asked.
    """
    number = _bytes_of(asked, QUESTION)
    if len(number) != _SIZE:
        return ()
    key = serialization.load_pem_private_key(own.key, None)
    statement = _statement(number, x509.load_pem_x509_certificate(dialler))
    return (
        (CERTIFICATE, own.certificate),
        (SIGNATURE, sign(key, statement)),
    )


def why_refused(own: Credentials, dialler: bytes) -> str | None:
    """Say why a certificate is not taken that TLS has taken, now or once.

    TLS resumes a session without a look at certificates. So what may have changed since it
    was begun is looked at here: whether it is valid, and those of its authority.

    Args:
        own: the listener's credentials.
        dialler: the certificate in PEM, as TLS has shown it.

    Returns:
        Words for the log and the other side; `None` if nothing is wrong.
    """
    found = x509.load_pem_x509_certificate(dialler)
    # TLS does not tell those that stand between it and the authority.
    if why := why_not_valid_now([found], own.authority):
        return why
    return why_denied(found.serial_number, own.denied)


def check(own: Credentials, identity: str, asked: bytes, shown: Metadata) -> None:
    """Refuse a listener that does not show that it is the party that was dialled.

    Args:
        own: credentials of the party that dials.
        identity: the URI that the listener's certificate must name.
        asked: the number that the dialling party has drawn.
        shown: what the listener has sent before the stream.

    Raises:
        RemoteProtocolError: saying what is wrong.
    """
    certificate, signature = (_bytes_of(shown, x) for x in (CERTIFICATE, SIGNATURE))
    if not certificate or not signature:
        raise RemoteProtocolError(
            "it does not show its certificate, as one of an older jsplit does not"
        )
    try:
        chain = x509.load_pem_x509_certificates(certificate)
        # As TLS has taken it: a certificate that is enough for TLS is enough here.
        uris = verified_uris(chain, own.authority, strict=False)
        mine = x509.load_pem_x509_certificates(own.certificate)[0]
        verify(chain[0], signature, _statement(asked, mine))
    except VerificationError as error:
        raise RemoteProtocolError(f"its certificate is not accepted: {error}") from None
    except InvalidSignature:
        raise RemoteProtocolError(
            "it has not signed for this party with the key of the certificate that it shows"
        ) from None
    except ValueError as error:
        raise RemoteProtocolError(f"it shows no certificate: {error}") from None
    if identity not in uris:
        # Whoever has a certificate of the authority has chosen what stands in it.
        names = quoted(", ".join(uris)) if uris else "no one"
        raise RemoteProtocolError(f"its certificate names {names}, not {identity}")
    if why := why_denied(chain[0].serial_number, own.denied):
        raise RemoteProtocolError(why)

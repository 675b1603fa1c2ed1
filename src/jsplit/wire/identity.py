"""By what names a party is known, read from its credentials and not verified.

gRPC reads certificates itself, and verifies them; this is for
transports that do neither.
"""

from __future__ import annotations

from typing import NamedTuple

from jsplit.wire.certs import Credentials, Trust
from jsplit.wire.denied import why_denied


class Shown(NamedTuple):
    """By what names a party can be known from its credentials.

    Attributes:
        uris: by which those that listen know it.
        hosts: by which those that dial know it.
        serial: number of its certificate, if it has one.
    """

    uris: list[str]
    hosts: list[str]
    serial: int | None = None


def shown_by(trust: Trust) -> Shown:
    """The names in a party's certificate, or its own name if it has none."""
    # Without certificates a party is whom it says it is, by the same name
    # to all.
    if not isinstance(trust, Credentials):
        return Shown([trust.party], [trust.party])
    # Here and not at the top: who has no certificates needs no
    # `cryptography`.
    from cryptography import x509

    # The first of a chain is the party's own; the others are of those that
    # issued it.
    own = x509.load_pem_x509_certificates(trust.certificate)[0]
    try:
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return Shown([], [], own.serial_number)
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    hosts = names.value.get_values_for_type(x509.DNSName)
    return Shown(uris, hosts, own.serial_number)


def why_refused(trust: Trust, shown: Shown) -> str | None:
    """Say why a party does not take another's certificate, if it denies it."""
    if not isinstance(trust, Credentials) or shown.serial is None:
        return None
    return why_denied(shown.serial, trust.denied)

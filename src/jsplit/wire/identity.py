"""By what names a party is known, read from its credentials and not verified.

gRPC reads certificates itself, and verifies them; this is for
transports that do neither.
"""

from __future__ import annotations

from typing import NamedTuple

from jsplit.wire.certs import Credentials, Trust


class Shown(NamedTuple):
    """By what names a party can be known from its credentials.

    Attributes:
        uris: by which those that listen know it.
        hosts: by which those that dial know it.
    """

    uris: list[str]
    hosts: list[str]


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
        return Shown([], [])
    uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    return Shown(uris, names.value.get_values_for_type(x509.DNSName))

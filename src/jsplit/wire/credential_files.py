"""A party's credentials in files: read, checked, and read again whenever a connection is made.

So a certificate that is renewed counts from the next connection on, and needs no restart. What
cannot be used, as a file that is half written, leaves what was read before. Needs the extra
`jsplit[grpc]`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from jsplit.wire.credentials import (
    AUTHORITY_NAME,
    Credentials,
    certificate_name,
    key_name,
)
from jsplit.wire.denied import checked, denied_in
from jsplit.wire.errors import NotYet
from jsplit.wire.private import check_private, warn_of_writers

if TYPE_CHECKING:
    from cryptography import x509

_log = logging.getLogger("jsplit.wire")

_AHEAD = timedelta(days=7)
"""How long before its end a certificate is warned of."""
_AGAIN = timedelta(days=1)
"""After what time it is warned of once more."""


def read(
    folder: str | os.PathLike[str],
    party: str,
    *,
    deny: str | os.PathLike[str] | Iterable[int] | None = None,
) -> Credentials:
    """Read a party's credentials from a folder, and check that connections can be made with them.

    The files are those that `jsplit.party.certs` writes, or others' of the same names:
    `<party>.crt`, `<party>.key` and `ca.crt`, all in PEM. They are read again whenever a
    connection is made, so they can be renewed while the party runs.

    Args:
        folder: the folder that holds the three files.
        party: the party's name.
        deny: serial numbers of certificates that are not believed, or a file that has one a
            line, which is read again with the others.

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
    fixed, file = None, None
    if isinstance(deny, (str, os.PathLike)):
        file = Path(deny)
    else:
        fixed = checked(deny or ())
    return _Files(
        folder / certificate_name(party),
        folder / key_name(party),
        folder / AUTHORITY_NAME,
        file,
        fixed or frozenset(),
    ).first()


class _Read(NamedTuple):
    """What the files hold, unchecked: by it is known whether they have changed."""

    certificate: bytes
    key: bytes
    authority: bytes
    denied: frozenset[int]


class _Life(NamedTuple):
    """From when to when the certificate of a file is valid."""

    file: Path
    begin: datetime
    end: datetime


class _Files:
    """The files of one party, and the last credentials in them that could be used."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        authority: Path,
        deny: Path | None,
        denied: frozenset[int],
    ):
        self.certificate, self.key, self.authority = certificate, key, authority
        self.deny, self.denied = deny, denied
        # Every connection that is made asks, and each is made in a thread of its own.
        self.lock = Lock()
        self.lives: list[_Life] = []
        self.warned: dict[Path, datetime] = {}
        self.trouble: object = None

    def first(self) -> Credentials:
        """Read them for the first time.

        Raises:
            ValueError: naming the file that is missing, or that cannot be used, and why.
        """
        self.seen = self.read()
        self.kept = self.usable(self.seen)
        believed = [
            self.certificate,
            self.authority,
            *([self.deny] if self.deny else []),
        ]
        # Each folder once: most often all lie in one.
        warn_of_writers(*dict.fromkeys(file.parent for file in believed), *believed)
        if denied := self.kept.denied:
            # To be compared with what was meant: a number may be written in several ways.
            said = ", ".join(f"{n:#x}" for n in sorted(denied))
            _log.info("certificates with these serial numbers are denied: %s", said)
        self.warn()
        return self.kept

    def current(self) -> Credentials:
        """Give the credentials that are in the files now, or else the last that were."""
        with self.lock:
            found = None
            try:
                found = self.read()
                if found != self.seen:
                    self.kept, self.seen = self.usable(found), found
                    # A new certificate is warned of by itself.
                    self.warned.clear()
                    _log.info(
                        "%s was read anew, and is valid until %s UTC",
                        self.certificate,
                        f"{self.lives[0].end:%Y-%m-%d %H:%M}",
                    )
                self.trouble = None
            except (OSError, ValueError) as error:
                # Once for what the files hold, and not by the words, which tell the time: with
                # connections that come and go the log would be full of it.
                trouble = str(error) if found is None else found
                if trouble != self.trouble:
                    _log.warning("%s (what was read before goes on)", error)
                self.trouble = trouble
            self.warn()
            return self.kept

    def read(self) -> _Read:
        """Read all files.

        Raises:
            ValueError: if one is missing, or others can read the key.
            OSError: if one cannot be read.
        """
        for file in (self.certificate, self.key, self.authority):
            if not file.is_file():
                raise ValueError(
                    f"there is no file {file}; `jsplit certs` makes certificates to try with."
                )
        if self.deny is not None and not self.deny.is_file():
            raise ValueError(f"`deny` names {self.deny}, and there is no such file.")
        check_private(self.key)
        return _Read(
            self.certificate.read_bytes(),
            self.key.read_bytes(),
            self.authority.read_bytes(),
            self.denied if self.deny is None else denied_in(self.deny),
        )

    def usable(self, found: _Read) -> Credentials:
        """Refuse credentials with which no connection could be made.

        TLS would say only that the handshake failed, and to the log of gRPC.

        Raises:
            ValueError: naming one of the files.
        """
        chain = _certificates(self.certificate, found.certificate)
        authorities = _certificates(self.authority, found.authority)
        _check_key(found.key, self.key, chain[0], self.certificate)
        # What follows the first certificate of a chain is checked by whoever builds the path; of
        # several authorities one that is valid is enough, others may have run out.
        own = _check_time(chain[:1], self.certificate)
        top = _check_time(authorities, self.authority)
        self.lives = [own, top]
        return Credentials(*found, again=self.current)

    def warn(self) -> None:
        """Say of a certificate that ends soon when it does."""
        now = datetime.now(UTC)
        for file, begin, end in self.lives:
            life = end - begin
            # One that lives for hours is renewed by a program, and the last tenth is when that
            # has failed; by seven days it would be warned of all its life.
            ahead = _AHEAD if life >= 2 * _AHEAD else life / 10
            last = self.warned.get(file)
            # And once more when it has come: connections fail from then on.
            ended = end <= now and (last is None or last < end)
            soon = last and now - last < min(_AGAIN, ahead)
            if end - now > ahead or (soon and not ended):
                continue
            self.warned[file] = now
            _log.warning(
                "%s is valid until %s UTC, %s: put a new one into its place, it is read "
                "when a connection is made.",
                file,
                f"{end:%Y-%m-%d %H:%M}",
                f"for {_in_words(end - now)} more" if end > now else "and no more",
            )


def _in_words(left: timedelta) -> str:
    if left.days:
        return f"{left.days} days"
    hours, minutes = divmod(left.seconds // 60, 60)
    return f"{hours} h {minutes} min"


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
        # As amid a renewal, of which one file is there and the other not yet.
        raise NotYet(f"{file} is not the key of the certificate in {named}.")


def _check_time(certificates: list[x509.Certificate], file: Path) -> _Life:
    """Refuse certificates none of which is valid now; give the one that lasts longest."""
    now = datetime.now(UTC)
    valid = [
        _Life(file, x.not_valid_before_utc, x.not_valid_after_utc)
        for x in certificates
        if x.not_valid_before_utc <= now <= x.not_valid_after_utc
    ]
    if valid:
        return max(valid, key=lambda life: life.end)
    first = certificates[0]
    begin, end = first.not_valid_before_utc, first.not_valid_after_utc
    # A clock may not be set yet, and a renewal be under way.
    raise NotYet(
        f"{file} is valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, "
        f"and now it is {now:%Y-%m-%d %H:%M} UTC."
    )

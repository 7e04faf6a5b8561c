"""The certificate of the API's TCP listeners, which can be replaced while connections are open.

TLS 1.2 or later with the ciphers of Python's default context.
"""

import ssl
from pathlib import Path

from magid.errors import InvalidConfig


class Certificate:
    """A certificate and its key, read at the start and at each reload."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Reads the pair. Raises InvalidConfig if it cannot be used. Blocks."""
        self._certificate, self._key = certificate, key
        self._current = self._read()
        # The listeners keep this context; each handshake switches to the newest one. Loading into a
        # context in use would leave half of a new pair in force if the other half is bad.
        self.context = self._read()
        self.context.sni_callback = self._choose

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _at: ssl.SSLContext
    ) -> None:
        """Selects the newest context. OpenSSL calls it at each handshake, with or without SNI."""
        connection.context = self._current

    def reload(self) -> None:
        """Reads the files again for new connections. Blocks.

        Raises InvalidConfig if the new pair cannot be used; the old pair then stays in force.
        """
        self._current = self._read()

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            for path in (self._certificate, self._key):
                with path.open("rb"):  # OpenSSL's errors do not name the file
                    pass
            context.load_cert_chain(self._certificate, self._key, _no_password)
        except _Encrypted:
            raise self._refused(
                "the key needs a password", f"remove it: openssl pkey -in {self._key} -out NEW"
            ) from None
        except ssl.SSLError as error:
            raise self._refused(_reason(error), "check that the two are PEM and a pair") from None
        except OSError as error:
            raise self._refused(
                f"{error.filename}: {error.strerror}", "let the user that runs magid read it"
            ) from None
        return context

    def _refused(self, why: str, advice: str) -> InvalidConfig:
        return InvalidConfig(
            f"cannot use the certificate {self._certificate} with the key {self._key}: {why}; "
            f"{advice} (tls_cert and tls_key in magid.yaml)"
        )


class _Encrypted(Exception):
    """Raised when OpenSSL asks for a password."""


def _no_password() -> str:
    raise _Encrypted


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "it is not PEM").replace("_", " ").lower()

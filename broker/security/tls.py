"""TLS as our links use it: version 1.2 or newer, the broker's name checked, and failures that do not get lost."""

from __future__ import annotations

import ssl

from broker.address import BrokerAddress, parse_broker_urls
from broker.errors import ConfigError
from broker.security.credentials import Credentials, load_credentials


class TlsSocket(ssl.SSLSocket):
    """A TLS socket that remembers how it failed.

    Under TLS 1.3 a broker complains about our certificate only after the handshake, when paho already reads, and paho
    keeps to itself what it meets there.
    """

    failure: OSError | None = None

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, and close the socket where that fails: paho would leave it open."""
        try:
            super().do_handshake(block)
        except OSError as error:
            self.failure = error
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Read, as paho does."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.failure = error
            raise


def tls_context(address: BrokerAddress, credentials: Credentials) -> ssl.SSLContext | None:
    """Return what a connection to the broker is encrypted with; None where the address says mqtt://.

    Raises ConfigError for files that hold no certificate or key, and for certificates where nothing is encrypted.
    """
    if not address.tls:
        if credentials.needs_tls:
            raise ConfigError(
                f"the credentials name certificates, but mqtt://{address} encrypts nothing: "
                "use mqtts:// and the broker's TLS port, usually 8883"
            )
        return None
    try:
        context = ssl.create_default_context(cafile=credentials.ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"credentials: ca {credentials.ca} holds no certificate in PEM format: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TlsSocket
    if credentials.certificate and credentials.key:
        try:
            # An empty passphrase: OpenSSL would ask for one at the terminal, where nobody may sit.
            context.load_cert_chain(credentials.certificate, credentials.key, password="")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"credentials: certificate {credentials.certificate} and key {credentials.key} do not belong "
                f"together, or are not in PEM format, or the key has a passphrase: {error}"
            ) from error
    return context


def credentials_for(urls: str, file: str) -> Credentials:
    """Load a credentials file, or the environment for an empty name, and see that it fits the broker's URLs.

    For programs to call before they start anything. Raises ConfigError.
    """
    credentials = load_credentials(file)
    tls_context(parse_broker_urls(urls)[0], credentials)
    return credentials

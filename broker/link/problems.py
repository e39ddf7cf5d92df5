"""Why a connection failed, in words that a person can act on."""

from __future__ import annotations

import socket
import ssl

from broker.address import CERTIFICATE_PORT, PASSWORD_PORT, BrokerAddress
from broker.security.credentials import Credentials

# OpenSSL's x509_vfy.h, which names them X509_V_ERR_...
NOT_YET_VALID, EXPIRED, REVOKED = 9, 10, 23
UNKNOWN_ISSUERS = frozenset({2, 18, 19, 20, 21})  # of the chain, or a certificate that signed itself
OTHER_NAMES = frozenset({62, 64})  # of the host, of the address

PORTS = (
    f"`local-broker provision` has port {CERTIFICATE_PORT} take certificates (credentials.toml) and {PASSWORD_PORT} "
    "passwords (password.toml)"
)
NEW_CERTIFICATE = "get a new one (docs/security.md) and name it in the --credentials file"

# What a broker's alert says, as a part of OpenSSL's name for it. Such an alert is about what we showed.
ALERTS = {
    "CERTIFICATE_EXPIRED": f"it says that our certificate has expired: {NEW_CERTIFICATE}",
    "CERTIFICATE_REVOKED": f"it says that our certificate was revoked: {NEW_CERTIFICATE}",
    "CERTIFICATE_REQUIRED": "it wants a client certificate and got none: name certificate and key in the "
    f"--credentials file, or use the port for passwords; {PORTS}",
    "UNKNOWN_CA": f"it does not know who signed our certificate, so that is one for another broker: {NEW_CERTIFICATE}",
    "BAD_CERTIFICATE": f"it does not accept our certificate: {NEW_CERTIFICATE}",
    "UNSUPPORTED_CERTIFICATE": f"our certificate is not one for clients: {NEW_CERTIFICATE}",
    "PROTOCOL_VERSION": "it speaks no TLS 1.2 or newer: update the broker",
    # Under TLS 1.2 all that a broker says about a missing certificate.
    "HANDSHAKE_FAILURE": "the TLS handshake failed; perhaps it wants a client certificate: name certificate and key in "
    f"the --credentials file, or use the port for passwords; {PORTS}",
}


def explain(error: OSError | UnicodeError, address: BrokerAddress, *, lost: bool = False) -> str:
    """Say why a connection to that address failed, and what to do. lost: there was a connection before."""
    broker = f"the broker at {address}"
    gone = f"lost {broker}" if lost else f"no broker at {address}"
    match error:
        case ssl.SSLCertVerificationError():
            return f"{broker} cannot be trusted: {_distrust(error, address)}"
        case ssl.SSLError() if (alert := _alert(error)) is not None:
            return f"{broker} refuses us: {alert}"
        case ssl.SSLError():
            return f"{broker} does not speak TLS ({error.reason or error}): {_plain_port(address)}"
        case socket.gaierror() | UnicodeError():
            return f"{gone}: the name {address.host!r} is unknown here; check --broker and the DNS"
        case ConnectionRefusedError():
            return f"{gone}: nothing listens there; start it, or correct --broker"
        case ConnectionError() if address.tls:
            return f"{broker} ended the TLS handshake: {_plain_port(address)}"
        case TimeoutError() if "handshake" in str(error):
            return f"{broker} did not answer the TLS handshake: {_plain_port(address)}"
        case TimeoutError():
            return f"{gone}: no answer; a firewall may be between, or the machine is off"
        case _:
            return f"{gone}: {error.strerror or error}"


def silent_end(address: BrokerAddress) -> str:
    """Say what it means that a connection ended before the broker said a word of MQTT."""
    end = f"the broker at {address} ended the connection without a word"
    if address.tls:
        return f"{end}: perhaps it wants another certificate than ours, has too many clients, or speaks no MQTT there"
    return f"{end}: perhaps it speaks TLS there; then use mqtts:// and --credentials"


def ends_soon(address: BrokerAddress, largest: int) -> str:
    """Say what it may mean that a broker ends one connection after the other. largest: bytes that were sent on it."""
    return (
        f"the broker at {address} lets us in and ends each connection within seconds, behind a message of up to "
        f"{largest:,} bytes: perhaps its limit is lower (mosquitto: max_packet_size), or another client has our name"
    )


def refusal(reason: str, address: BrokerAddress, credentials: Credentials) -> str:
    """Say what to do about a broker that refused to let us in. reason: its own word for it."""
    refused = f"the broker at {address} refuses us: {reason}"
    if "authorized" not in reason.lower() and "password" not in reason.lower():
        return refused
    if (user := credentials.username) is not None:
        return f"{refused}: user {user!r} is unknown or the password is wrong; correct the --credentials file"
    if credentials.certificate is not None:
        return f"{refused}: it wants a user and password there, and takes no certificate; {PORTS}"
    return f"{refused}: it wants a user and password, or a certificate; name them in a file for --credentials"


def _distrust(error: ssl.SSLCertVerificationError, address: BrokerAddress) -> str:
    code = error.verify_code
    if code == EXPIRED:
        return "its certificate has expired; renew it there, and check this machine's clock"
    if code == NOT_YET_VALID:
        return "its certificate is not valid yet; check this machine's clock"
    if code == REVOKED:
        return "its certificate was revoked; somebody else may answer in its place"
    if code in OTHER_NAMES:
        return (
            f"its certificate is for other names than {address.host!r}; use one of those in --broker, or have it "
            f"reissued for this one (local-broker provision DIR --host {address.host})"
        )
    if code in UNKNOWN_ISSUERS:
        return "who signed its certificate is unknown here; name the right ca in the --credentials file"
    return error.verify_message


def _alert(error: ssl.SSLError) -> str | None:
    reason = (error.reason or str(error)).upper()
    return next((words for alert, words in ALERTS.items() if alert in reason and "ALERT" in reason), None)


def _plain_port(address: BrokerAddress) -> str:
    return f"is {address.port} its plain port? Its TLS port is usually 8883"

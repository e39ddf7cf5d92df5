"""What a failure of the connection is called. That real brokers cause these failures is tested in test_security.py."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from pathlib import Path

import pytest

from broker.address import BrokerAddress
from broker.link.problems import explain, refusal, silent_end
from broker.security.credentials import Credentials

TLS = BrokerAddress("broker.example", 8883, tls=True)
PLAIN = BrokerAddress("::1", 1883, tls=False)


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "the name 'broker.example' is unknown here"),
        (UnicodeError("label too long"), "the name 'broker.example' is unknown here"),
        (ConnectionRefusedError(), "no broker at broker.example:8883: nothing listens there; start it, or correct"),
        (ConnectionResetError(), "ended the TLS handshake: is 8883 its plain port?"),
        (TimeoutError("_ssl.c:990: The handshake operation timed out"), "did not answer the TLS handshake: is 8883"),
        (TimeoutError("timed out"), "no broker at broker.example:8883: no answer; a firewall"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no broker at broker.example:8883: No route to host"),
        (alert("WRONG_VERSION_NUMBER"), r"does not speak TLS \(WRONG_VERSION_NUMBER\): is 8883 its plain port?"),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "wants a client certificate and got none: name certificate"),
        (alert("SSLV3_ALERT_HANDSHAKE_FAILURE"), "perhaps it wants a client certificate"),
        # OpenSSL 3.2 changed the beginning of these names.
        (alert("SSL/TLS_ALERT_CERTIFICATE_EXPIRED"), "our certificate has expired: get a new one"),
        (alert("SSLV3_ALERT_CERTIFICATE_REVOKED"), "our certificate was revoked: get a new one"),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), "does not know who signed our certificate"),
        (alert("TLSV1_ALERT_PROTOCOL_VERSION"), "no TLS 1.2 or newer"),
    ],
)
def test_what_happened_and_what_to_do(error: OSError | UnicodeError, words: str) -> None:
    assert re.search(words, explain(error, TLS))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "not valid yet; check this machine's clock"),
        (10, "has expired; renew it there"),
        (18, "name the right ca"),
        (19, "name the right ca"),
        (20, "name the right ca"),
        (23, "was revoked"),
        (62, "for other names than 'broker.example'"),
        (64, "for other names than 'broker.example'"),
        (26, "what OpenSSL says"),
    ],
)
def test_why_a_broker_cannot_be_trusted(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "what OpenSSL says"
    assert explain(error, TLS).startswith("the broker at broker.example:8883 cannot be trusted: ")
    assert words in explain(error, TLS)


def test_a_broker_that_was_there_before_was_lost() -> None:
    assert explain(ConnectionRefusedError(), PLAIN, lost=True).startswith(
        "lost the broker at [::1]:1883: nothing listens"
    )


def test_a_broker_that_ends_without_a_word() -> None:
    assert "the broker at [::1]:1883 ended the connection" in silent_end(PLAIN)
    assert "use mqtts://" in silent_end(PLAIN)
    assert "another certificate" in silent_end(TLS)


def test_a_refusal_says_what_was_missing() -> None:
    user = Credentials(username="r1", password="secret")
    certified = Credentials(certificate=Path("client.crt"), key=Path("client.key"))
    assert "it wants a user and password, or a certificate" in refusal("Not authorized", TLS, Credentials())
    assert "user 'r1' is unknown or the password is wrong" in refusal("Bad user name or password", TLS, user)
    assert "takes no certificate; `local-broker provision` has port 8883" in refusal("Not authorized", TLS, certified)
    assert (
        refusal("Server unavailable", TLS, user) == "the broker at broker.example:8883 refuses us: Server unavailable"
    )

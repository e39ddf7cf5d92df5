"""Where a broker is: mqtt://HOST[:PORT], or mqtts:// for an encrypted connection; or where each of its nodes is."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple
from urllib.parse import urlsplit

from broker.errors import ConfigError

# At a broker from `local-broker provision`. No listener of mosquitto takes both.
CERTIFICATE_PORT, PASSWORD_PORT = 8883, 8884


class BrokerAddress(NamedTuple):
    """Where a broker is."""

    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_broker_url(url: str) -> BrokerAddress:
    """Take mqtt://HOST[:PORT] or mqtts://HOST[:PORT] apart. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"broker {url!r}: {error}") from error
    if parts.username or parts.password:
        raise ConfigError(
            "the broker's URL holds a user or password, which every process list shows: put them into a file for "
            "--credentials, or into REFLEXARC_MQTT_USERNAME and REFLEXARC_MQTT_PASSWORD"
        )
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname or port == 0 or parts.path.strip("/"):
        raise ConfigError(f"broker {url!r}: expected mqtt://HOST:PORT or mqtts://HOST:PORT")
    tls = parts.scheme == "mqtts"
    return BrokerAddress(parts.hostname, port or (CERTIFICATE_PORT if tls else 1883), tls)


def parse_broker_urls(urls: str) -> list[BrokerAddress]:
    """Take apart the URLs of a broker's nodes, with commas between. Raises ConfigError."""
    addresses = list(dict.fromkeys(parse_broker_url(url.strip()) for url in urls.split(",")))
    if len({address.tls for address in addresses}) > 1:
        raise ConfigError(f"broker {urls!r}: mqtt:// and mqtts:// do not go together, use one of them for all nodes")
    return addresses


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

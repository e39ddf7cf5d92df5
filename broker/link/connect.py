"""How a program gets its link to the broker: over MQTT, and sealed where it has a key for payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.link.base import Link
from broker.link.inbox import everything
from broker.link.mqtt import MqttLink
from broker.security.credentials import Credentials

if TYPE_CHECKING:
    from broker.security.payload_keys import PayloadKeys


def connect(
    urls: str,
    name: str,
    *,
    will: tuple[str, bytes] | None = None,
    credentials: Credentials | None = None,
    keys: PayloadKeys | None = None,
    wanted: Callable[[str], bool] = everything,
) -> Link:
    """Start connecting, as an MqttLink does. keys: what payloads are sealed with; None for not at all.

    Raises ConfigError where a URL is none or the credentials do not fit it.
    """
    if keys is None:
        return MqttLink(urls, name, will=will, credentials=credentials, wanted=wanted)
    from broker.link.sealed import SealedLink  # needs cryptography
    from broker.security.sealing import Sealing

    sealing = Sealing(keys)
    sealed_will = will and (will[0], sealing.seal_will(*will))
    return SealedLink(MqttLink(urls, name, will=sealed_will, credentials=credentials, wanted=wanted), sealing)

"""Settings of the way to the cloud."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from broker.address import parse_broker_urls
from broker.errors import ConfigError
from hierarchy.runtime.command_line import check_range
from robot_edge.uplink.outbox import WhenFull

# What --home-assistant takes: a prefix of topics, or that what lies below one is to go.
DISCOVERY = re.compile(r"(off:)?[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,3}")


@dataclass(frozen=True, kw_only=True)
class UplinkSettings:
    """The broker, and what waits on the disk for the cloud."""

    broker: str = "mqtt://127.0.0.1:1883"
    """The MQTT broker, mqtt://HOST:PORT or mqtts://HOST:PORT for an encrypted connection. Several nodes of
    a cluster have commas between: where one does not answer, the next is tried."""
    credentials: str = ""
    """TOML file with what the broker asks for: ca, certificate and key, or username and password (docs/security.md).
    Default: the environment variables REFLEXARC_MQTT_USERNAME, REFLEXARC_MQTT_PASSWORD and so on."""
    names_key: str = ""
    """Key that makes tokens of class names, so that broker and cloud see no names. robot-edge names-key FILE makes one,
    for all robots of a fleet. Default: none, names go up as they are."""
    payload_key: str = ""
    """File with the keys that payloads are sealed with, so that the broker's operator reads nothing: payload.key of
    `local-broker provision --seal`. Both ends need theirs. Default: payload_key of --credentials, or no sealing."""
    home_assistant: str = ""
    """Home Assistant's prefix for discovery at this broker, `homeassistant` where nobody chose another: the robot tells
    it what it sees and how good it is, and can be taught there (docs/how-to/home-assistant.md). off, or off:PREFIX,
    takes that away. Default: Home Assistant is told nothing."""
    when_full: WhenFull | Literal["auto"] = "auto"
    """What happens when the cloud is away for so long that the outbox is full: block waits (a replay can), drop-oldest
    lets the oldest samples go, balanced those of the class that has most; it also sends the rarest classes first when
    the cloud is back, behind what is seen now. Default: block, and balanced when live."""
    outbox_mb: float = 256.0
    """What may wait on the disk for the cloud, in megabytes; at least 1."""
    durable: bool = False
    """Write the outbox so that nothing in it is lost, or sent twice, after a power cut. Costs some milliseconds ten
    times a second; a kill loses nothing either way."""

    def __post_init__(self) -> None:
        if self.broker:
            parse_broker_urls(self.broker)
        if self.home_assistant and not DISCOVERY.fullmatch(self.home_assistant):
            raise ConfigError(
                f"--home-assistant {self.home_assistant}: use homeassistant, another prefix of topics, or off"
            )
        check_range("outbox-mb", self.outbox_mb, 1, 10**7)

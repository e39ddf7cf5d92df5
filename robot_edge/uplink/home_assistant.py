"""Home Assistant's MQTT discovery: one retained message tells it which of a robot's topics is what, and how to teach.

It reads what the robot publishes anyway, and gives commands as `robot-edge teach` does. The format is of Home Assistant
2024.11 and later (https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload). The message is pure.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from broker.link.base import Link
from broker.program.version import program_version
from broker.wire import topics
from broker.wire.bounds import MAX_CLASS_NAME
from broker.wire.topics import ANYONE, Channel

# How long a name that is typed there is taught, and what its commands are known by.
TEACH_SECONDS, ID = 10, "home-assistant"
# Home Assistant takes no longer state.
MAX_STATE = 255
# Behind a robot that says nothing any more, nothing is seen.
SILENT_SECONDS = 30
OFF, ONLINE = "off", "online"

log = logging.getLogger("robot-edge")


def config_topic(prefix: str, robot: str) -> str:
    """Return where a robot's message lies. prefix: Home Assistant's for discovery."""
    return f"{prefix}/device/reflexarc_{robot}/config"


def discovery(robot: str, *, is_live: bool) -> dict[str, Any]:
    """Return the message of a robot. A live one can be taught, and says what it sees."""
    version = program_version().partition(" ")[2]
    components = _figures(robot) | (_seeing(robot) if is_live else {})
    for name, one in components.items():
        one["unique_id"] = f"reflexarc_{robot}_{name}"
        if name != ONLINE:
            one["availability"] = _signs_of_life(robot, is_live=is_live)
    return {
        "device": {
            "identifiers": [f"reflexarc_{robot}"],
            "name": f"Robot {robot}",
            "manufacturer": "Reflexarc",
            "sw_version": version,
        },
        "origin": {"name": "reflexarc", "sw_version": version},
        "components": components,
    }


def _figures(robot: str) -> dict[str, dict[str, Any]]:
    state = _topic(robot, "state")
    online = {
        "platform": "binary_sensor",
        "name": "Online",
        "device_class": "connectivity",
        "state_topic": state,
        "value_template": "{{ 'ON' if value_json.online else 'OFF' }}",
        "entity_category": "diagnostic",
    }
    accuracies = {
        "exit_accuracy": ("Accuracy", _topic(robot, "metrics")),
        "cloud_accuracy": ("Accuracy of the cloud", topics.cloud_metrics_topic(robot, ANYONE)),
    }
    found = {
        name: {
            "platform": "sensor",
            "name": title,
            "state_topic": topic,
            # "None" is Home Assistant's word for what is not known.
            "value_template": f"{{% set share = value_json.{name} %}}"
            "{{ 'None' if share is none else (100 * share) | round(1) }}",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "icon": "mdi:bullseye-arrow",
        }
        for name, (title, topic) in accuracies.items()
    }
    return {ONLINE: online, **found}


def _seeing(robot: str) -> dict[str, dict[str, Any]]:
    command = _topic(robot, "command")
    lesson = f"{{'kind': 'command', 'id': '{ID}', 'action': 'teach', 'name': value, 'seconds': {TEACH_SECONDS}}}"
    shown: dict[str, dict[str, Any]] = {
        "sees": {
            "platform": "sensor",
            "name": "Sees",
            "state_topic": _topic(robot, "prediction"),
            "value_template": "{{ value_json.name or 'nothing it knows' }}",
            "expire_after": SILENT_SECONDS,
            "icon": "mdi:eye",
        },
        "said": {
            "platform": "sensor",
            "name": "Last answer",
            "state_topic": _topic(robot, "result"),
            "value_template": f"{{{{ value_json.text[:{MAX_STATE}] }}}}",
            "icon": "mdi:message-text",
            "entity_category": "diagnostic",
        },
        "teach": {
            "platform": "text",
            "name": "Teach",
            "command_topic": command,
            "command_template": f"{{{{ {lesson} | to_json }}}}",
            "min": 1,
            "max": MAX_CLASS_NAME,
            "icon": "mdi:school",
        },
    }
    for action, title, icon in (("stop", "Stop the lesson", "mdi:stop"), ("undo", "Undo the lesson", "mdi:undo")):
        shown[action] = {
            "platform": "button",
            "name": title,
            "command_topic": command,
            "payload_press": json.dumps({"kind": "command", "id": ID, "action": action}),
            "icon": icon,
        }
    return shown


def _signs_of_life(robot: str, *, is_live: bool) -> list[dict[str, str]]:
    """Return where Home Assistant hears whether the robot is there; the last word counts.

    A robot says its state from when a trainer is first there. One that sees needs none, and says what it sees.
    """
    state = {"topic": _topic(robot, "state"), "value_template": "{{ 'online' if value_json.online else 'offline' }}"}
    seen = {"topic": _topic(robot, "prediction"), "value_template": "online"}
    return [state, seen] if is_live else [state]


def _topic(robot: str, channel: Channel) -> str:
    return topics.topic("robot", robot, channel)


@dataclass(kw_only=True, eq=False)
class HomeAssistant:
    """Keeps a robot's message at the broker, or takes it away. prefix: as --home-assistant has it."""

    link: Link
    robot: str
    prefix: str
    is_live: bool
    _told: int = 0

    @property
    def is_off(self) -> bool:
        """Whether the message is taken away."""
        return self.prefix.partition(":")[0] == OFF

    def turn(self) -> None:
        """Say it with each new connection: a broker may have lost what it retained."""
        now = self.link.connections
        if now == self._told or not self.link.connected:
            return
        prefix = (self.prefix.partition(":")[2] or "homeassistant") if self.is_off else self.prefix
        topic = config_topic(prefix, self.robot)
        message = b"" if self.is_off else json.dumps(discovery(self.robot, is_live=self.is_live)).encode()
        if self.link.publish(topic, message, qos=1, retain=True):
            self._told = now
            log.info("Home Assistant %s: %s", "forgets this robot" if self.is_off else "hears of this robot", topic)

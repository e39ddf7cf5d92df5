"""What Home Assistant is told: topics and templates that fit the robot's own messages, and commands that it takes.

The message itself was tried with Home Assistant (docs/how-to/home-assistant.md). Here jinja2 renders it, which its
templates are built on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest

from broker.errors import ConfigError
from broker.link.memory import MemoryBroker, MemoryLink
from broker.wire import topics
from broker.wire.codec import unpack_as
from broker.wire.messages import Command
from robot_edge.uplink.home_assistant import TEACH_SECONDS, HomeAssistant, config_topic, discovery
from robot_edge.uplink.settings import UplinkSettings

GOLDEN = Path(__file__).parents[2] / "golden"
TOPIC = "homeassistant/device/reflexarc_r1/config"


@pytest.fixture
def link() -> MemoryLink:
    return MemoryLink(MemoryBroker())


def turned(link: MemoryLink, prefix: str = "homeassistant") -> HomeAssistant:
    one = HomeAssistant(link=link, robot="r1", prefix=prefix, is_live=True)
    one.turn()
    return one


def rendered(template: str, **values: Any) -> str:
    environment = jinja2.Environment(autoescape=False)
    environment.filters["to_json"] = json.dumps
    return environment.from_string(template).render(**values)


def said(component: str, message: str, **changed: Any) -> str:
    """Return what a component shows of one of the golden messages."""
    fields = {**json.loads((GOLDEN / message).read_text()), **changed}
    return rendered(discovery("r1", is_live=True)["components"][component]["value_template"], value_json=fields)


def test_it_shows_what_the_robot_says() -> None:
    assert said("sees", "prediction.json") == "köttur"
    assert said("sees", "prediction.json", name="") == "nothing it knows"
    assert said("said", "command-result.json", text="x" * 400) == "x" * 255
    assert said("exit_accuracy", "robot-metrics.json") == "None"
    assert said("exit_accuracy", "robot-metrics.json", exit_accuracy=0.87654) == "87.7"
    assert said("cloud_accuracy", "trainer-metrics-fleet.json") == "87.5"
    assert [said("online", "robot-state.json", online=online) for online in (True, False)] == ["ON", "OFF"]


def test_every_topic_is_one_of_the_robots_own() -> None:
    components = discovery("r1", is_live=True)["components"]
    for name, one in components.items():
        assert one["unique_id"] == f"reflexarc_r1_{name}"
        named = [one[key] for key in ("state_topic", "command_topic") if key in one]
        for topic in [*named, *(sign["topic"] for sign in one.get("availability", []))]:
            parsed = topics.parse(topic.replace("+", "t1"))
            assert (parsed.role, parsed.name) == ("robot", "r1")
    assert components["sees"]["state_topic"] == topics.topic("robot", "r1", "prediction")
    assert components["cloud_accuracy"]["state_topic"] == topics.cloud_metrics_topic("r1", topics.ANYONE)


@pytest.mark.parametrize("name", ["mug", 'kött"ur\\ {{x}}'])
def test_a_name_that_is_typed_there_is_a_lesson(name: str) -> None:
    text = rendered(discovery("r1", is_live=True)["components"]["teach"]["command_template"], value=name)
    command = unpack_as(Command, text.encode())
    assert (command.action, command.name, command.seconds) == ("teach", name, TEACH_SECONDS)


@pytest.mark.parametrize("action", ["stop", "undo"])
def test_a_button_is_a_command(action: str) -> None:
    text = discovery("r1", is_live=True)["components"][action]["payload_press"]
    assert unpack_as(Command, text.encode()).action == action


def test_a_robot_that_sees_is_there_without_a_trainer() -> None:
    message = (GOLDEN / "prediction.json").read_text(), (GOLDEN / "robot-state.json").read_text()
    seen, state = (json.loads(text) for text in message)
    for name, one in discovery("r1", is_live=True)["components"].items():
        templates = {sign["topic"]: sign["value_template"] for sign in one.get("availability", [])}
        if name != "online":
            assert rendered(templates[topics.topic("robot", "r1", "prediction")], value_json=seen) == "online"
            gone = rendered(templates[topics.topic("robot", "r1", "state")], value_json={**state, "online": False})
            assert gone == "offline"


def test_a_replay_cannot_be_taught() -> None:
    assert set(discovery("r1", is_live=False)["components"]) == {"online", "exit_accuracy", "cloud_accuracy"}


def test_it_is_retained_and_said_again_with_each_connection(link: MemoryLink) -> None:
    one = turned(link)
    retained = link._broker.retained
    assert json.loads(retained.pop(TOPIC))["device"]["identifiers"] == ["reflexarc_r1"]
    one.turn()
    assert TOPIC not in retained
    link.connections += 1  # a broker that lost what it retained
    one.turn()
    assert TOPIC in retained


def test_off_takes_it_away(link: MemoryLink) -> None:
    turned(link)
    turned(link, "house/ha")
    turned(link, "off")
    assert link._broker.retained[TOPIC] == b""
    assert link._broker.retained[config_topic("house/ha", "r1")]
    turned(link, "off:house/ha")
    assert link._broker.retained[config_topic("house/ha", "r1")] == b""


@pytest.mark.parametrize("prefix", ["home assistant", "a/#", "+", "off:", "/x", "$SYS"])
def test_what_is_no_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="--home-assistant"):
        UplinkSettings(home_assistant=prefix)

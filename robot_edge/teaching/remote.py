"""Giving a running robot a command, through the broker, and hearing what comes of it."""

from __future__ import annotations

import math
import secrets
import time
from contextlib import closing

from broker.errors import BrokerUnavailable, ConfigError, MalformedMessage, NoAnswer, SealedPayload
from broker.link.base import Link
from broker.link.connect import connect
from broker.link.inbox import Delivery
from broker.link.named import named
from broker.program.plain_text import say
from broker.security.credentials import payload_keys_for
from broker.security.names_key import load_names
from broker.security.tls import credentials_for
from broker.wire import topics
from broker.wire.codec import pack, unpack
from broker.wire.messages import Action, Command, CommandResult, RobotState
from broker.wire.names import is_sealed
from broker.wire.topics import check_name
from robot_edge.teaching.commands import new_command

# How long the broker may take to let us in, and the robot to say a first word: it finishes a training step before.
CONNECT_SECONDS = 15.0
ANSWER_SECONDS = 15.0
# In place of what a robot with a key says to who has it not.
SEALED = "done or not, as the exit status says; the robot's own words take its --names-key to read"


def give_command(
    action: Action,
    *,
    robot: str,
    broker: str,
    credentials: str,
    names_key: str = "",
    payload_key: str = "",
    name: str = "",
    to: str = "",
    seconds: float = 0.0,
    region: str = "",
) -> bool:
    """Give the command, print what the robot says, and return whether it did it.

    Raises BrokerUnavailable and NoAnswer where broker or robot cannot be reached, and ConfigError.
    """
    check_name(robot, "--robot")
    try:
        command = new_command(action, id_=secrets.token_hex(8), name=name, to=to, seconds=seconds, region=region)
    except MalformedMessage as error:
        raise ConfigError(str(error)) from error
    names = load_names(names_key)
    try:
        names.conceal(command)
    except MalformedMessage as error:
        raise ConfigError(str(error)) from error
    login = credentials_for(broker, credentials)
    keys = payload_keys_for(payload_key, login, robot=robot)
    line = connect(broker, f"{robot}-operator", credentials=login, keys=keys)
    with closing(named(line, names)) as link:
        return _converse(link, robot, command)


def _converse(link: Link, robot: str, command: Command) -> bool:
    # The state is retained, so it comes at once where there is a robot, or has been one.
    link.know([topics.sender("robot", robot)])
    for channel in ("state", "result"):
        link.subscribe(topics.topic("robot", robot, channel))
    give_up = time.monotonic() + CONNECT_SECONDS
    early: list[Delivery] = []  # what came with the connection, perhaps that the robot is not there
    while not link.connected:
        if time.monotonic() > give_up:
            raise BrokerUnavailable(f"the broker cannot be reached ({link.problem})")
        early += filter(None, [link.receive(0.1)])
    give_up = time.monotonic() + ANSWER_SECONDS
    while not link.publish(topics.topic("robot", robot, "command"), pack(command), qos=1):
        if not link.connected:
            raise BrokerUnavailable(f"the broker cannot be reached ({link.problem})")
        if time.monotonic() > give_up:
            raise NoAnswer(
                f"no robot {robot!r} answers at this broker under this --payload-key: is it running, with this --robot "
                "name, and with the same key?"
            )
        early += filter(None, [link.receive(0.1)])
    give_up = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < give_up:
        delivery = early.pop(0) if early else link.receive(0.2)
        if delivery is None:
            continue
        try:
            message = unpack(delivery.payload)
        except SealedPayload as error:
            raise ConfigError(
                f"robot {robot!r} seals its payloads: give --payload-key the robot's own payload.key"
            ) from error
        except MalformedMessage:  # garbage under the robot's name; what we wait for may come all the same
            continue
        if isinstance(message, RobotState) and not message.online:
            raise NoAnswer(f"the robot {robot!r} is not there: start it, or give the --robot that is")
        if isinstance(message, CommandResult) and message.id == command.id:
            say(f"{robot}: {SEALED if is_sealed(message.text) else message.text}")
            if message.done:
                return message.ok
            give_up = math.inf if command.seconds else time.monotonic() + ANSWER_SECONDS
    raise NoAnswer(f"no robot {robot!r} answers at this broker: is it running, and with this --robot name?")

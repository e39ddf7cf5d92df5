"""Whether the broker lets us in, and which trainers are there. A broker that hangs costs seconds, and no more."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from broker.errors import ConfigError, MalformedMessage, ReflexarcError
from broker.link.base import Link
from broker.link.connect import connect
from broker.program.plain_text import counted
from broker.security.credentials import payload_keys_for
from broker.security.tls import credentials_for
from broker.wire import topics
from broker.wire.codec import pack, unpack_as
from broker.wire.messages import Probe, ProbeResult, TrainerState
from hierarchy.runtime.doctor.finding import Finding
from hierarchy.runtime.doctor.machine import clock_finding

DEFAULT_BROKER = "mqtt://127.0.0.1:1883"
# For the broker to let us in; for trainers to be heard; between two probes; for the connection to end.
CONNECT_SECONDS, ANSWER_SECONDS, AGAIN_SECONDS, CLOSE_SECONDS = 2.0, 1.5, 0.4, 0.5
# Trainers that are told apart, and named.
MOST_TRAINERS, MOST_NAMED = 64, 4


@dataclass(kw_only=True)
class Heard:
    """What came from trainers. states: of each by its name. answered: seconds to the first answer to a probe.

    garbage: how many messages could not be read.
    """

    states: dict[str, TrainerState] = field(default_factory=dict)
    answered: float | None = None
    garbage: int = 0


def peers(role: topics.Role, name: str, broker: str, credentials: str = "", payload_key: str = "") -> Iterator[Finding]:
    """Look at broker, trainers and clock. broker: its URL, or empty for the one that runs take by default."""
    urls, installed_at = broker or DEFAULT_BROKER, Path(__file__).stat().st_mtime
    try:
        login = credentials_for(urls, credentials)
        keys = payload_keys_for(payload_key, login, robot=name if role == "robot" else None)
        begin = time.monotonic()
        with _let_go(connect(urls, f"{name}-doctor", credentials=login, keys=keys)) as link:
            link.subscribe(topics.topic("trainer", topics.ANYONE, "state"))
            if role == "robot":  # a trainer may not ask
                link.subscribe(topics.topic("robot", name, "probe-result"))
            while not link.connected and time.monotonic() < begin + CONNECT_SECONDS:
                time.sleep(0.01)
            if not link.connected:
                yield _no_broker(broker, link.problem)
                yield clock_finding(time.time(), installed_at, {})
                return
            took = time.monotonic() - begin
            heard = listen(link, name if role == "robot" else "")
    except ConfigError as error:  # also of rights at the broker
        yield Finding(name="broker", state="problem", text=str(error))
        yield clock_finding(time.time(), installed_at, {})
        return
    yield Finding(name="broker", text=f"{urls} lets {name} in within {took * 1000:.0f} ms")
    yield trainer_finding(heard, time.time(), asked=role == "robot", broker=urls)
    yield clock_finding(time.time(), installed_at, {one: state.started for one, state in heard.states.items()})


def listen(link: Link, robot: str) -> Heard:
    """Return what trainers say within a moment. robot: in whose name to ask them; empty for not to."""
    heard, boot, number = Heard(), secrets.token_hex(8), 0
    begin, asked = time.monotonic(), dict[int, float]()
    end, again = begin + ANSWER_SECONDS, begin
    while (now := time.monotonic()) < end and not (heard.answered is not None and heard.states):
        if robot and now >= again:
            again = now + AGAIN_SECONDS
            if link.publish(
                topics.topic("robot", robot, "probe"), pack(Probe(boot=boot, number=number, split=None, rest=b""))
            ):
                asked[number] = now
                number += 1
        if (delivery := link.receive(0.05)) is None:
            continue
        try:
            if topics.parse(delivery.topic).role == "trainer":
                state = unpack_as(TrainerState, delivery.payload)
                if len(heard.states) < MOST_TRAINERS:
                    heard.states[topics.parse(delivery.topic).name] = state
                continue
            result = unpack_as(ProbeResult, delivery.payload)
        except MalformedMessage:
            heard.garbage += 1
            continue
        if result.boot == boot and result.number in asked and heard.answered is None:
            heard.answered = time.monotonic() - asked[result.number]
    return heard


def trainer_finding(heard: Heard, now: float, *, asked: bool, broker: str) -> Finding:
    """Return which trainers are there. now: seconds since 1970. asked: whether they were asked, as robots do."""
    online = {name: state for name, state in heard.states.items() if state.online}
    if not online and heard.answered is None:
        gone = f"; {_named(sorted(heard.states))} has ended" if heard.states else ""
        unread = f"; {counted(heard.garbage, 'message')} could not be read: is there a --payload-key?"
        start = f"cloud-trainer run --broker {broker}"
        text = f"none at this broker{gone}{unread if heard.garbage else ''}"
        return Finding(name="trainer", state="missing", text=text, remedy=start)
    since = [f"{name} for {_for(now - state.started)}" for name, state in sorted(online.items())]
    text = _named(since) or "one that does not say its name"
    for name, state in sorted(online.items()):
        if state.trouble:
            return Finding(name="trainer", state="problem", text=f"{name} takes nothing for now: {state.trouble}")
    if asked and heard.answered is None:
        rights = "start it again; one of an older version, or without the right, needs local-broker provision again"
        return Finding(name="trainer", state="problem", text=f"{text}; it answers nothing", remedy=rights)
    answers = f", answers within {heard.answered * 1000:.0f} ms" if heard.answered is not None else ""
    return Finding(name="trainer", text=text + answers)


def _no_broker(broker: str, problem: str) -> Finding:
    if broker:
        return Finding(name="broker", state="problem", text=f"{broker} cannot be reached ({problem})")
    start = "local-broker run, or --broker URL of another one"
    return Finding(name="broker", state="missing", text=f"none at {DEFAULT_BROKER}", remedy=start)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _for(seconds: float) -> str:
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return counted(int(seconds / size), unit)
    return counted(max(0, int(seconds)), "second")


@contextmanager
def _let_go(link: Link) -> Iterator[Link]:
    """Close a link in the end, without waiting for one that still dials: a name or an address may hang for longer."""
    try:
        yield link
    finally:

        def close() -> None:
            with suppress(ReflexarcError, OSError):
                link.close()

        closing = threading.Thread(target=close, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

"""A node without ROS 2: its topics are DDS topics of agreed names, and Cyclone DDS comes from PyPI.

The names are those of https://design.ros2.org/articles/topic_and_service_names.html.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication, DcpsEndpoint
from cyclonedds.core import DDSException, InstanceState, ReadCondition, SampleState, ViewState, WaitSet
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from broker.errors import SourceError
from robot_edge.sources.encoded import MAX_BYTES
from robot_edge.sources.ros2.dds_types import STORE, dds_type, pack, ros_name, unpack
from robot_edge.sources.ros2.node import GraphUnreachable
from robot_edge.sources.ros_images import COMPRESSED_IMAGE, IMAGE

# Messages that wait: of pictures as many as rclpy's profile for sensors keeps, of others as its default.
PICTURES, QUEUE = 5, 10
# Publishers in the graph that are looked at.
MAX_PUBLISHERS = 10_000
# Ports are counted up from 7400 + 250 for each domain, up to 65,535.
MAX_DOMAIN = 232
# Of the domain's configuration: what no message of ours may be larger than.
LIMITS = f"<CycloneDDS><Domain><Internal><MaxSampleSize>{MAX_BYTES}B</MaxSampleSize></Internal></Domain></CycloneDDS>"
# What ROS 2 means by LOCALHOST. Nodes are found by asking the first ports in turn, as few loopbacks have multicast.
LOOPBACK = (
    "<CycloneDDS><Domain><General><Interfaces><NetworkInterface address='127.0.0.1'/></Interfaces>"
    "<AllowMulticast>false</AllowMulticast></General><Discovery><ParticipantIndex>auto</ParticipantIndex>"
    "<MaxAutoParticipantIndex>32</MaxAutoParticipantIndex><Peers><Peer address='127.0.0.1'/></Peers></Discovery>"
    "</Domain></CycloneDDS>"
)
ANY = SampleState.Any | ViewState.Any | InstanceState.Any
VOLATILE = Policy.Durability.Volatile

# Nodes of several threads share a domain, which ends with the last reference to it, and takes them all with it.
_domains: dict[int, Domain] = {}
_lock = threading.Lock()


class DdsNode:
    """A Node of the domain ROS_DOMAIN_ID. Its name is in those of its topics that begin with a ~."""

    def __init__(self, name: str) -> None:
        """Enter the domain. Raises GraphUnreachable, and SourceError for what ROS_DOMAIN_ID may not be."""
        number = domain_number()
        with _reaching(f"domain {number}"):
            _configure(number)
            self._participant = DomainParticipant(number)
            self._publishers = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
            self._waiting = WaitSet(self._participant)
        self._name = name
        self._subscriptions: list[tuple[Any, str, Callable[[Any], None]]] = []

    def topics(self) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {}
        for one in self._endpoints():
            if one.topic_name.startswith("rt/") and (kind := ros_name(one.type_name)):
                found.setdefault(one.topic_name[2:], set()).add(kind)
        return {topic: sorted(kinds) for topic, kinds in found.items()}

    def subscribe(self, topic: str, kind: str, receive: Callable[[Any], None]) -> None:
        with _reaching(topic):
            reader = DataReader(self._participant, self._topic(topic, kind), self._quality(topic, kind))
            self._waiting.attach(ReadCondition(reader, ANY))
        self._subscriptions.append((reader, kind, receive))

    def publisher(self, topic: str, kind: str) -> Callable[[Any], None]:
        if kind not in STORE.fielddefs:
            raise ImportError(f"{kind} is not known")
        # Reliable, as ROS 2 takes it by default; a reader that does not keep up may not hold up who sees.
        quality = Qos(Policy.Reliability.Reliable(duration()), VOLATILE, Policy.History.KeepLast(QUEUE))
        with _reaching(topic):
            writer = DataWriter(self._participant, self._topic(topic, kind), quality)

        def publish(message: Any) -> None:
            with _reaching(topic):
                writer.write(dds_type(kind)(pack(message)))

        return publish

    def make(self, kind: str, **fields: Any) -> Any:
        return STORE.types[kind](**fields)

    def spin(self, seconds: float) -> None:
        came: list[tuple[int, bytes, str, Callable[[Any], None]]] = []
        with _reaching("its topics"):
            self._waiting.wait(duration(seconds=seconds))
            for reader, kind, receive in self._subscriptions:
                samples = [one for one in reader.take(QUEUE) if one.sample_info.valid_data]  # or a publisher has gone
                came += [(one.sample_info.source_timestamp, one.cdr, kind, receive) for one in samples]
        for _, cdr, kind, receive in sorted(came, key=itemgetter(0)):  # a label may be between two pictures
            receive(_message(cdr, kind))

    def close(self) -> None:
        # Each is deleted with the last reference to it.
        self._subscriptions.clear()
        del self._waiting, self._publishers, self._participant

    def _endpoints(self) -> list[DcpsEndpoint]:
        return [one for one in self._publishers.read(MAX_PUBLISHERS) if one.sample_info.valid_data]

    def _topic(self, topic: str, kind: str) -> Topic[Any]:
        path = topic.replace("~", f"/{self._name}", 1) if topic.startswith("~") else "/" + topic.removeprefix("/")
        return Topic(self._participant, f"rt{path}", dds_type(kind))

    def _quality(self, topic: str, kind: str) -> Qos:
        """Return what meets every publisher of a topic that is there: who asks for more than is offered gets nothing.

        Of pictures, the newest count. Of others, each does, and the last one from before where it is kept.
        """
        if kind in (IMAGE, COMPRESSED_IMAGE):
            return Qos(Policy.Reliability.BestEffort, VOLATILE, Policy.History.KeepLast(PICTURES))
        offers = [one.qos for one in self._endpoints() if one.topic_name == f"rt{topic}"]
        best_effort = any(Policy.Reliability.BestEffort in one for one in offers)
        kept = bool(offers) and all(Policy.Durability.TransientLocal in one for one in offers)
        return Qos(
            Policy.Reliability.BestEffort if best_effort else Policy.Reliability.Reliable(duration()),
            Policy.Durability.TransientLocal if kept else VOLATILE,
            Policy.History.KeepLast(QUEUE),
        )


@contextmanager
def _reaching(what: str) -> Iterator[None]:
    try:
        yield
    except DDSException as error:
        raise GraphUnreachable(f"DDS, {what}: {error}") from error


def domain_number() -> int:
    """Return ROS_DOMAIN_ID; 0 where it is not set. Raises SourceError."""
    text = os.environ.get("ROS_DOMAIN_ID", "").strip() or "0"
    if not text.isascii() or not text.isdecimal() or int(text) > MAX_DOMAIN:
        raise SourceError(f"ROS_DOMAIN_ID={text[:40]}: use 0 to {MAX_DOMAIN}")
    return int(text)


def _configure(number: int) -> None:
    """Configure a domain, once in a process, unless somebody else in it has. Raises DDSException."""
    with _lock:
        if number in _domains:
            return
        is_local = os.environ.get("ROS_LOCALHOST_ONLY") == "1"
        is_local |= os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
        parts = [LIMITS, LOOPBACK if is_local else "", os.environ.get("CYCLONEDDS_URI", "")]
        try:
            _domains[number] = Domain(number, ",".join(filter(None, parts)))
        except DDSException as error:
            if error.code != DDSException.DDS_RETCODE_PRECONDITION_NOT_MET:
                raise


def _message(cdr: bytes, kind: str) -> Any:
    """Return the message, or the ValueError with which it could not be read."""
    try:
        return unpack(cdr, kind)
    except ValueError as error:
        return error

"""A hostile robot does all that it can at once, beside honest ones at one real broker; and what those see of it.

python -m tests.soak.hostile --seconds 120

It asks for a picture size that would take the trainer's memory, sends one message of many tiny samples, a thousand
class edits, garbage of every kind, invented names, a class name that is mathematics to matplotlib, and floods of asks,
probes, states, metrics and duplicates; and it wants pretrained weights from a server that never answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import secrets
import signal
import socket
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import tyro
from paho.mqtt.enums import CallbackAPIVersion

from broker.errors import MalformedMessage
from broker.local.server import start_local_broker
from broker.wire import topics
from broker.wire.codec import pack, unpack, unpack_as
from broker.wire.messages import (
    HEARTBEAT_SECONDS,
    ActivationBatch,
    Ask,
    ClassEdit,
    Probe,
    Receipt,
    RobotMetrics,
    RobotState,
    SplitSpec,
    TrainerMetrics,
    TrainerState,
)
from broker.wire.quantize import Quantized, pack_activations
from tests.warm_start import WarmStart

SPLIT = SplitSpec(backbone="shufflenet_v2_x0_5", cut="stage2", image_size=32, bits=2, bottleneck=8, shape=(8, 8, 8))
# A small network, and pictures that would take 8 GB to try it on.
HUGE = SplitSpec(backbone="resnet18", cut="layer1", image_size=1600, bits=1, bottleneck=1, shape=(1, 400, 400))
TINY = SplitSpec(backbone="resnet18", cut="layer1", image_size=32, bits=1, bottleneck=1, shape=(1, 16, 16))
HONEST = ("r1", "r2", "r3")
SAMPLES = 8
MESSAGE_SECONDS = 0.5
# A message without a receipt is repeated, as a robot's uplink does; sooner, so that a short run sees it.
RESEND_SECONDS = 5.0
# Messages a second of all floods together.
FLOOD_PER_SECOND = 2400
READY_SECONDS = 240.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a run came to.

    latencies: seconds from each honest message to its receipt, sorted. gaps: seconds between two of the trainer's
    heartbeats. peak_bytes: of the trainer's memory. sent, trained: honest samples, as the robots say and as the
    trainer's log does. receipted: honest messages with a receipt. hostile: what the hostile robot sent, by kind.
    status: the trainer's exit status. said: its log.
    """

    latencies: list[float]
    gaps: list[float]
    peak_bytes: int
    sent: Counter[tuple[str, int]]
    trained: Counter[tuple[str, int]]
    unreceipted: int
    hostile: Counter[str]
    status: int
    said: str

    def latency(self, share: float) -> float:
        """Return the seconds within which that share of the honest messages had its receipt."""
        return self.latencies[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


class Client:
    """A bare MQTT client, which is nobody's product."""

    def __init__(self, port: int, hear: Callable[[str, bytes, bool], None], *filters: str) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"soak-{secrets.token_hex(6)}")
        self._client.max_queued_messages_set(0)
        self._client.max_inflight_messages_set(5000)
        self._filters = filters
        self._client.on_connect = self._subscribe
        self._client.on_message = lambda _client, _data, message: hear(
            message.topic, bytes(message.payload), message.retain
        )
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()

    def _subscribe(self, client: mqtt.Client, *_rest: object) -> None:
        for one in self._filters:
            client.subscribe(one, qos=1)

    def publish(self, robot: str, channel: topics.Channel, payload: bytes, qos: int = 1, retain: bool = False) -> None:
        self._client.publish(topics.topic("robot", robot, channel), payload, qos=qos, retain=retain)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def state(split: SplitSpec = SPLIT, **settings: Any) -> RobotState:
    """Return what a robot that has just started says of itself."""
    fields: dict[str, Any] = {"former": "", "edits": 0, "weights": "none", "rehearse": 0.0, **settings}
    names = {"boot": secrets.token_hex(8), "run": secrets.token_hex(8)}
    return RobotState(**{**names, **fields}, started=time.time(), online=True, split=split)


def batch(of: RobotState, sequence: int, names: list[str], *, first: int = 1, seed: int = 0) -> ActivationBatch:
    """Return a message of noise; its samples are numbered from ``first`` on."""
    split, classes = of.split, tuple(dict.fromkeys(names))
    codes = np.random.default_rng(seed).integers(0, 2**split.bits, (len(names), *split.shape), np.uint8)
    low, step = np.full(split.shape[0], -1, np.float32), np.full(split.shape[0], 0.5, np.float32)
    return ActivationBatch(
        boot=of.boot,
        sequence=sequence,
        split=split.fingerprint,
        evaluation=0,
        progress=None,
        edge_version=0,
        edits=0,
        session=0,
        classes=classes,
        labels=np.array([classes.index(name) for name in names], np.uint16),
        samples=np.arange(first, first + len(names), dtype=np.uint32),
        again=False,
        activations=pack_activations(Quantized(codes=codes, low=low, step=step, bits=split.bits)),
    )


class Honest:
    """A robot that keeps to the rules: it says its state, sends samples, and repeats what has no receipt."""

    def __init__(self, port: int, name: str) -> None:
        self.latencies: list[float] = []
        self.heartbeats: list[float] = []
        self.sent: Counter[tuple[str, int]] = Counter()
        self._made = self._trained = 0  # messages
        self._name = name
        self._state = state()
        self._open: dict[int, tuple[bytes, float, float]] = {}  # payload, when it was made, when it was sent last
        self._lock = threading.Lock()
        self._over, self._given_up = threading.Event(), threading.Event()
        self._client = Client(
            port,
            self._hear,
            topics.topic("robot", name, "receipt"),
            topics.topic("trainer", topics.ANYONE, "state"),
            topics.topic("trainer", topics.ANYONE, "metrics"),
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def unreceipted(self) -> int:
        """How many messages have no receipt yet."""
        return len(self._open)

    @property
    def untrained(self) -> int:
        """How many messages the trainer does not say to have trained on."""
        return self._made - self._trained

    def stop_sending(self) -> None:
        """Make no more samples; what has no receipt is still repeated."""
        self._over.set()

    def close(self) -> None:
        """Say goodbye."""
        self._over.set()
        self._thread.join()
        self._client.publish(self._name, "state", pack(dataclasses.replace(self._state, online=False)), retain=True)
        self._client.close()

    def _hear(self, _topic: str, payload: bytes, retained: bool) -> None:
        with contextlib.suppress(MalformedMessage):
            message = unpack(payload)
            if isinstance(message, Receipt) and message.boot == self._state.boot:
                with self._lock:
                    if found := self._open.pop(message.sequence, None):
                        self.latencies.append(time.monotonic() - found[1])
            elif isinstance(message, TrainerMetrics) and message.boot == self._state.boot:
                self._trained = message.messages_trained
            elif isinstance(message, TrainerState) and not retained:
                self.heartbeats.append(time.monotonic())

    def _run(self) -> None:
        sequence, next_state = 0, 0.0
        while not (self._over.is_set() and not self._open):
            now = time.monotonic()
            if now >= next_state:
                next_state = now + HEARTBEAT_SECONDS
                self._client.publish(self._name, "state", pack(self._state), retain=True)
            if not self._over.is_set():
                self._make(sequence, now)
                sequence += 1
            with self._lock:
                late = [number for number, (_, _, at) in self._open.items() if now > at + RESEND_SECONDS]
                again = [self._open[number][0] for number in late]
                self._open.update({number: (*self._open[number][:2], now) for number in late})
            for payload in again:
                self._client.publish(self._name, "activations", payload)
            if self._given_up.wait(MESSAGE_SECONDS):
                return

    def give_up(self) -> None:
        """Send nothing any more, and repeat nothing."""
        self._given_up.set()

    def _make(self, sequence: int, now: float) -> None:
        first = 1 + sequence * SAMPLES
        names = [f"toy {number % 4}" for number in range(SAMPLES)]
        payload = pack(batch(self._state, sequence, names, first=first, seed=sequence))
        self.sent.update((self._name, number) for number in range(first, first + SAMPLES))
        with self._lock:
            self._open[sequence] = payload, now, now
            self._made += 1
        self._client.publish(self._name, "activations", payload)


class Hostile:
    """One robot without access rules in its way, and all the names that it invents."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self.sent: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._client = Client(port, lambda *_: None)
        self._own = state()
        self._metrics = RobotMetrics(
            boot=self._own.boot, images=1, classes=1, exit_loss=1.0, exit_prequential=0.5, exit_accuracy=None,
            images_per_second=1.0, bytes_per_image=1.0, raw_bytes_per_image=1.0, jpeg_bytes_per_image=1.0,
            messages_sent=1, messages_rejected=0, queued=0, dropped=0,
        )  # fmt: skip
        self._one = batch(self._own, 0, ["a"]).activations
        self._duplicate = pack(batch(self._own, 0, ["a", "b"] * 16))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hostile", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        self._client.publish("evil", "state", pack(self._own), retain=True)
        self._client.publish("evil", "activations", self._duplicate)
        for blow in (self._take_memory, self._send_tiny_samples, self._name_mathematics, self._want_weights):
            blow()
        edits = self._edits()
        while not self._over.is_set():
            begin = time.monotonic()
            for _ in range(FLOOD_PER_SECOND // 20):
                self._flood()
            for _ in range(50):
                next(edits, None)
            self._over.wait(max(0.0, begin + 0.05 - time.monotonic()))

    def _take_memory(self) -> None:
        self._join("evil-huge", state(HUGE), ["a", "b"] * 8)

    def _send_tiny_samples(self) -> None:
        self._join("evil-tiny", state(TINY, rehearse=1.0), [f"c{number % 2}" for number in range(4096)])

    def _name_mathematics(self) -> None:
        self._join("evil-names", state(), ["$\\frac$", "a_$b^$", "[/switch]", "-x"])

    def _want_weights(self) -> None:
        self._join("evil-weights", state(weights="default"), ["a", "b"])

    def _join(self, name: str, its: RobotState, names: list[str]) -> None:
        self.sent[name] += 1
        self._client.publish(name, "state", pack(its), retain=True)
        self._client.publish(name, "activations", pack(batch(its, 0, names)))

    def _edits(self) -> Iterator[None]:
        its = state()
        self._join("evil-edits", its, [f"k{number}" for number in range(900)])
        for number in range(1, 1301):
            name, to = f"z{number % 2}", f"z{(number + 1) % 2}"
            edit = ClassEdit(
                boot=its.boot, sequence=number, number=number, change="rename", name=name, to=to, session=0
            )
            self._client.publish("evil-edits", "activations", pack(edit))
            self.sent["edits"] += 1
            yield

    def _flood(self) -> None:
        number = self.sent.total()
        kind = self._rng.choice(["ask", "probe", "state", "metrics", "duplicate", "garbage", "name"])
        self.sent[kind] += 1
        match kind:
            case "ask":
                ask = Ask(
                    boot=self._own.boot, number=number, split=SPLIT.fingerprint, deadline=60.0, activations=self._one
                )
                self._client.publish(self._rng.choice(["evil", f"e{number % 500}"]), "ask", pack(ask), qos=0)
            case "probe":
                probe = Probe(boot=self._own.boot, number=number, split=None, rest=bytes(100))
                self._client.publish("evil", "probe", pack(probe), qos=0)
            case "state":
                self._client.publish("evil", "state", pack(dataclasses.replace(self._own, edits=number % 10_000)))
            case "metrics":
                self._client.publish("evil", "metrics", pack(self._metrics), qos=0)
            case "duplicate":
                self._client.publish("evil", "activations", self._duplicate)
            case "garbage":
                channel: topics.Channel = self._rng.choice(["state", "activations", "ask", "probe", "metrics"])
                self._client.publish(f"g{number % 2000}", channel, self._rng.randbytes(self._rng.choice([0, 3, 300])))
            case _:
                self._client.publish(f"n{number % 3000}", "state", pack(state()))


class SlowServer:
    """A proxy for downloads that takes connections and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)

    @property
    def url(self) -> str:
        """What to set as the proxy."""
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def close(self) -> None:
        self._socket.close()


def run(folder: Path, *, seconds: float, hostile: bool = True) -> Account:
    """Let honest robots train for a while, with or without a hostile one, and close the books."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as closing:
        broker = closing.enter_context(start_local_broker(backend="mosquitto"))
        slow = closing.enter_context(contextlib.closing(SlowServer()))
        environment = {"https_proxy": slow.url, "http_proxy": slow.url, "TORCH_HOME": str(folder / "torch")}
        command = ["cloud_trainer", "run", "--broker", broker.url, "--threads", "1", "--batch", "16"]
        command += ["--run-dir", str(folder / "cloud")]
        trainer = WarmStart(command, folder / "cloud.log", environment)
        closing.callback(trainer.wait)
        closing.callback(trainer.kill)
        robots = [Honest(broker.port, name) for name in HONEST]
        for robot in robots:
            closing.callback(robot.give_up)
        _until(
            lambda: all(robot.latencies for robot in robots), READY_SECONDS, "a receipt for each honest robot", folder
        )
        begin = time.monotonic()
        before = [len(robot.latencies) for robot in robots]
        enemy = Hostile(broker.port)
        if hostile:
            enemy.start()
        _until(lambda: time.monotonic() >= begin + seconds or trainer.poll() is not None, seconds + 60, "time", folder)
        end = time.monotonic()
        if hostile:
            enemy.close()
        for robot in robots:
            robot.stop_sending()
        _until(lambda: not any(one.unreceipted for one in robots) or trainer.poll() is not None, READY_SECONDS,
               "the last receipts", folder)  # fmt: skip
        _until(
            lambda: not any(one.untrained for one in robots) or trainer.poll() is not None,
            READY_SECONDS,
            "the last honest message's training",
            folder,
        )
        peak = _peak_bytes(trainer.pid)
        for robot in robots:
            robot.give_up()
            robot.close()
        trainer.send_signal(signal.SIGINT)
        _until(lambda: trainer.poll() is not None, READY_SECONDS, "the trainer's end", folder)
        beats = [begin, *(at for at in robots[0].heartbeats if begin < at < end), end]
        return Account(
            latencies=sorted(at for robot, seen in zip(robots, before, strict=True) for at in robot.latencies[seen:]),
            gaps=[after - at for at, after in itertools.pairwise(beats)],
            peak_bytes=peak,
            sent=sum((robot.sent for robot in robots), Counter()),
            trained=_trained(folder / "cloud" / "store.db"),
            unreceipted=sum(robot.unreceipted for robot in robots),
            hostile=enemy.sent,
            status=trainer.poll() or 0,
            said=(folder / "cloud.log").read_text(errors="replace"),
        )


def _until(condition: Callable[[], bool], seconds: float, what: str, folder: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            said = (folder / "cloud.log").read_text(errors="replace")[-3000:]
            raise AssertionError(f"never came: {what}\n{said}")
        time.sleep(POLL_SECONDS)


def _peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever had; 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _trained(store: Path) -> Counter[tuple[str, int]]:
    """Count the samples of the honest robots in the trainer's log."""
    trained: Counter[tuple[str, int]] = Counter()
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        for robot, payload in database.execute("SELECT robot, payload FROM events WHERE kind = 'batch'"):
            if robot in HONEST:
                trained.update((robot, int(number)) for number in unpack_as(ActivationBatch, payload).samples)
    return trained


def check(account: Account) -> None:
    """Nothing of the honest robots was lost or trained on twice, and the trainer lived to its end."""
    assert account.status == 0, account.said[-3000:]
    assert "Traceback" not in account.said, account.said[-3000:]
    assert account.unreceipted == 0, f"{account.unreceipted} honest messages never had a receipt"
    assert account.trained == account.sent, "honest samples were lost, or stored twice"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Three honest robots and a hostile one; then count."""

    seconds: float = 120.0
    """How long the hostile robot has."""
    hostile: bool = True
    """Off for a run to compare with."""
    most_latency: float = 2.0
    """Seconds within which 99 of 100 honest messages must have their receipt; 0 for any."""
    most_memory_gb: float = 4.0
    """What the trainer's memory may come to; 0 for any."""
    out: Path | None = None
    """Empty folder for the run; none is a temporary one."""


def main(settings: Settings) -> None:
    WarmStart.measures = True
    with tempfile.TemporaryDirectory() as temporary:
        account = run(settings.out or Path(temporary), seconds=settings.seconds, hostile=settings.hostile)
    figures = {
        "honest messages": len(account.latencies),
        "p50 s": round(account.latency(0.5), 3),
        "p99 s": round(account.latency(0.99), 3),
        "longest s": round(account.latencies[-1], 3),
        "longest heartbeat gap s": round(max(account.gaps), 1),
        "trainer's peak MB": account.peak_bytes // 10**6,
        "hostile": dict(account.hostile),
    }
    print(json.dumps(figures))
    check(account)
    print("nothing of the honest robots was lost, and nothing was stored twice")
    assert not settings.most_latency or account.latency(0.99) <= settings.most_latency, "receipts came too late"
    assert not settings.most_memory_gb or account.peak_bytes <= settings.most_memory_gb * 1e9, "too much memory"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

"""A run of the main job in which everything is killed, cut, held up, sent twice and out of order."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from broker.local.server import start_local_broker
from broker.wire import topics
from tests.soak.proxy import LinkProxy
from tests.soak.run import PICTURES, Accounts, Run

# Pictures that the robot takes between two kills: more than while one of them is mended, so that each finds it at work.
PICTURES_PER_KILL = 600
# How many messages the echo keeps to send them again.
ECHOED = 200

Victim = Literal["broker", "trainer", "robot"]


class Echo:
    """A client that sends what robots sent once more, later and in another order."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self._rng = rng
        self._heard: list[tuple[str, bytes]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(
            topics.topic("robot", topics.ANYONE, "activations"), qos=1
        )
        self._client.on_message = self._keep
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()
        self.sent = 0

    def speak(self, count: int) -> None:
        """Send so many messages again, in any order."""
        heard = list(self._heard)
        for topic, payload in self._rng.sample(heard, min(count, len(heard))):
            self._client.publish(topic, payload, qos=1)
            self.sent += 1

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _keep(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        self._heard.append((message.topic, bytes(message.payload)))
        del self._heard[:-ECHOED]


class Chaos(Run):
    """Broker, trainer and robot, and what happens to them. The seed decides what; the machine's speed, when exactly."""

    def __init__(self, folder: Path, *, kills: int, seed: int, backend: Literal["mosquitto", "amqtt"]) -> None:
        super().__init__(folder, epochs=-(-(kills + 2) * PICTURES_PER_KILL // PICTURES))
        self._kills = kills
        self._rng = random.Random(seed)
        self._backend: Literal["mosquitto", "amqtt"] = backend
        self._broker = start_local_broker(backend=backend)
        self._proxies = {"robot": LinkProxy(self._broker.port), "trainer": LinkProxy(self._broker.port)}
        self._echo = Echo(self._broker.port, random.Random(seed + 1))

    @property
    def repeated(self) -> int:
        """How many messages were sent once more."""
        return self._echo.sent

    def run(self) -> Accounts:
        """Let it all happen, wait for the end, and close the books."""
        try:
            self._start("trainer")
            self._start("robot")
            for number in range(self._kills):
                pictures = (number + 1) * PICTURES_PER_KILL
                self._until_learned(pictures)
                self._hurt_the_link()
                self._echo.speak(self._rng.randrange(20))
                self._kill(self._rng.choice(["broker", "trainer", "robot"]))
            self._wait_for_robot()
            self._echo.speak(ECHOED)
            self._end_trainer()
            return self._accounts()
        finally:
            self._kill_programs()
            self._echo.close()
            for proxy in self._proxies.values():
                proxy.close()
            self._broker.stop()

    def _start(self, who: Literal["trainer", "robot"]) -> None:
        self._start_program(who, f"mqtt://127.0.0.1:{self._proxies[who].port}")

    def _kill(self, victim: Victim) -> None:
        """Kill -9 it, wait a moment, and start it again."""
        self._note(f"kill {victim}")
        self.killed[victim] += 1
        if victim == "broker":
            port = self._broker.port
            os.kill(self._broker.pid, signal.SIGKILL)
            self._broker.stop()
            self._pause(2)
            self._broker = start_local_broker(port=port, backend=self._backend)
            return
        assert self._programs[victim].poll() is None, self._said(victim)
        self._programs[victim].kill()
        self._programs[victim].wait()
        self._pause(2)
        self._start(victim)

    def _hurt_the_link(self) -> None:
        proxy = self._proxies[self._rng.choice(["robot", "trainer"])]
        what = self._rng.choice([proxy.cut, proxy.stall, None])
        if what:
            self._note(f"{what.__name__} a link")
            what()
            threading.Timer(self._rng.uniform(0.5, 4), proxy.heal).start()

    def _pause(self, most: float) -> None:
        time.sleep(self._rng.uniform(0, most))

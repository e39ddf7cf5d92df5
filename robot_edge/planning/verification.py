"""Whether a plan keeps what it promises: it is run, and what trainer and robot say of it is watched."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from broker.errors import ConfigError, MalformedMessage
from broker.link.base import Link
from broker.link.connect import connect
from broker.security.credentials import Credentials
from broker.wire import topics
from broker.wire.codec import unpack_as
from broker.wire.messages import TrainerMetrics
from broker.wire.quantize import MAX_BITS
from robot_edge.planning.config import PlanConfig

if TYPE_CHECKING:
    from broker.security.payload_keys import PayloadKeys

# How near a prediction should be.
NEAR = 0.15


def check_name_to_verify(config: PlanConfig, credentials: Credentials, keys: PayloadKeys | None = None) -> None:
    """Raise ConfigError where a broker that knows this robot by its credentials would not know it by another name."""
    if not config.verify_as and (credentials.username is not None or credentials.certificate or keys):
        raise ConfigError(
            f"--verify trains under the name {config.verifying_robot}, which these credentials may not use: give "
            f"--verify-as {config.run.robot} where the trainer has no network of this robot's yet, as it gives that up"
        )


def verify(
    config: PlanConfig, credentials: Credentials, keys: PayloadKeys | None, plan: Path, predicted: float
) -> bool:
    """Run the plan, and print the images a second that the cloud has learned from beside what was predicted.

    Return whether that was near. Raises ConfigError where the run fails.
    """
    link = connect(config.run.uplink.broker, f"{config.run.robot}-verify", credentials=credentials, keys=keys)
    with closing(link), tempfile.TemporaryDirectory() as folder:
        link.subscribe(topics.topic("trainer", topics.ANYONE, "metrics"))
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "robot_edge", "run", "--config", str(plan)]
        command += ["--images", str(config.verify_images), "--run-dir", f"{folder}/run"]
        command += ["--robot", config.verifying_robot, "--least-bits", str(MAX_BITS)]  # as many as were planned
        print(f"Verifying: {config.verify_images:,} images ...", flush=True)
        with log.open("w") as output:
            run = subprocess.Popen(command, stdout=output, stderr=output)
            try:
                seen = _watch(link, config.verifying_robot, run)
            finally:
                run.terminate()
                run.wait()
        if run.returncode:
            raise ConfigError(f"the run failed:\n{log.read_text()[-2000:]}")
    observed = steady_rate(seen)
    difference = observed / predicted - 1
    near = abs(difference) <= NEAR
    verdict = "as predicted" if near else "not as predicted: is something else running?"
    print(f"predicted {predicted:,.0f} images/s, observed {observed:,.0f} ({difference:+.0%}): {verdict}", flush=True)
    return near


def _watch(link: Link, robot: str, run: subprocess.Popen[bytes]) -> list[tuple[float, int]]:
    """Return when the trainer had learned from how many images, until the run ends; of several the most talkative."""
    by_trainer: dict[str, list[tuple[float, int]]] = {}
    while run.poll() is None:
        if (delivery := link.receive(0.2)) is None:
            continue
        try:
            figures = unpack_as(TrainerMetrics, delivery.payload)
        except MalformedMessage:
            continue
        seen = by_trainer.setdefault(delivery.topic, [])
        if figures.robot == robot and (not seen or figures.images != seen[-1][1]):
            seen.append((time.monotonic(), figures.images))
    return max(by_trainer.values(), key=len, default=[])


def steady_rate(seen: list[tuple[float, int]]) -> float:
    """Return images a second between the first and the last change; the metrics of a former run come before them.

    Raises ConfigError where too little was seen.
    """
    start = max(
        (place for place, (_, images) in enumerate(seen) if place == 0 or images < seen[place - 1][1]), default=0
    )
    seen = [one for one in seen[start:] if one[1] > 0]
    if len(seen) < 3:
        raise ConfigError(
            "the trainer told too little of the run to know its rate: use more --verify-images, and --epochs where the "
            "source has fewer"
        )
    (begin, first), (end, last) = seen[0], seen[-1]
    return (last - first) / (end - begin)

"""What the divided network is measured against: the whole one, on the robot alone, or in the cloud from its frames.

    python benchmarks/whole_in_one_place.py --mode alone --source folder:... --held-out folder:... --out FILE
    python benchmarks/whole_in_one_place.py --mode train --broker URL --held-out folder:... --out FILE    (in the cloud)
    python benchmarks/whole_in_one_place.py --mode send --broker URL --source folder:...                  (on the robot)

Sending, receiving and training overlap. Each writes what it measured as JSON.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgpack
import numpy as np
import tyro
from PIL import Image
from whole_network import WholeTrainer, frames_of

from broker.link.mqtt import MqttLink
from broker.program.startup import prepare_pytorch
from broker.wire.bounds import SEND_LIMIT_BYTES
from hierarchy.device import set_threads
from robot_edge.sources.frames import Pixels

FRAMES, RECEIPTS, READY = "bench/frames", "bench/receipts", "bench/ready"
# Messages on the way at the same time: 3 s of the slowest link that is measured.
WINDOW = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole network in one place."""

    mode: Literal["alone", "train", "send"]
    source: str = ""
    held_out: str = ""
    broker: str = ""
    out: Path = Path("whole.json")
    form: Literal["raw", "jpeg"] = "raw"
    """How frames go up."""
    backbone: str = "resnet18"
    image_size: int = 32
    images: int = 0
    batch: int = 64
    learning_rate: float = 0.05
    seed: int = 0


def main(settings: Settings) -> None:
    prepare_pytorch()  # as robot and trainer do
    set_threads(1)
    match settings.mode:
        case "alone":
            alone(settings)
        case "train":
            train(settings)
        case "send":
            send(settings)


def alone(settings: Settings) -> None:
    trainer = _trainer(settings)
    reader = _reader(settings)
    begin = time.time()
    while (taken := reader.next()) is not None:
        trainer.step(taken.images, taken.names, progress=reader.progress)
    _write(settings, begin=begin, end=time.time(), trainer=trainer)


def train(settings: Settings) -> None:
    trainer = _trainer(settings)
    with closing(MqttLink(settings.broker, "bench-cloud")) as link:
        link.subscribe(FRAMES)
        _connect(link)
        link.publish(READY, b"1", qos=1, retain=True)
        images: list[Pixels] = []
        names: list[str] = []
        done = 0
        while done < settings.images:
            # All that came in is taken before a step, as the robot may not wait for one.
            while (delivery := link.receive(0.0 if len(images) >= settings.batch else 0.2)) is not None:
                link.publish(RECEIPTS, b"", qos=1)
                its_images, its_names = _unpack(delivery.payload, settings.image_size)
                images += its_images
                names += its_names
            count = min(settings.batch, settings.images - done)
            if len(images) >= count:
                trainer.step(np.stack(images[:count]), names[:count], progress=done / settings.images)
                del images[:count], names[:count]
                done += count
        end = time.time()
        link.publish(READY, b"", qos=1, retain=True)
    _write(settings, end=end, trainer=trainer)


def send(settings: Settings) -> None:
    with closing(MqttLink(settings.broker, "bench-robot")) as link:
        link.subscribe(RECEIPTS)
        link.subscribe(READY)
        while (delivery := link.receive(1.0)) is None or delivery.payload != b"1":
            pass
        begin, sent, under_way = time.time(), 0, 0
        for payload in _payloads(settings):
            link.publish(FRAMES, payload, qos=1)
            sent += len(payload)
            under_way += 1
            while under_way >= WINDOW:
                delivery = link.receive(1.0)
                under_way -= delivery is not None and delivery.topic == RECEIPTS
        while under_way:
            delivery = link.receive(1.0)
            under_way -= delivery is not None and delivery.topic == RECEIPTS
    settings.out.write_text(json.dumps({"begin": begin, "bytes": sent}))


def _payloads(settings: Settings) -> Iterator[bytes]:
    reader = _reader(settings)
    most = SEND_LIMIT_BYTES // (3 * settings.image_size**2) if settings.form == "raw" else settings.batch
    while (taken := reader.next()) is not None:
        for start in range(0, len(taken.names), most):
            part = slice(start, start + most)
            yield msgpack.packb(
                {"names": taken.names[part], "frames": [_encode(one, settings) for one in taken.images[part]]}
            )


def _encode(image: Pixels, settings: Settings) -> bytes:
    if settings.form == "raw":
        return image.tobytes()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return file.getvalue()


def _unpack(payload: bytes, size: int) -> tuple[list[Pixels], list[str]]:
    fields = msgpack.unpackb(payload)
    frames = fields["frames"]
    images: list[Pixels]
    if len(frames[0]) == 3 * size**2:
        images = [np.frombuffer(one, np.uint8).reshape(size, size, 3) for one in frames]
    else:
        images = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in frames]
    return images, fields["names"]


def _trainer(settings: Settings) -> WholeTrainer:
    return WholeTrainer(
        settings.backbone,
        image_size=settings.image_size,
        batch=settings.batch,
        peak_learning_rate=settings.learning_rate,
        seed=settings.seed,
    )


def _reader(settings: Settings) -> Any:
    return frames_of(
        settings.source,
        settings.image_size,
        batch=settings.batch,
        images=settings.images,
        epochs=1000,
        seed=settings.seed,
    )


def _connect(link: MqttLink) -> None:
    while not link.connected:
        link.receive(0.1)


def _write(settings: Settings, *, trainer: WholeTrainer, **times: float) -> None:
    accuracy = trainer.accuracy(settings.held_out)
    settings.out.write_text(json.dumps({**times, "accuracy": accuracy, "memory": trainer.memory(settings.batch)}))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

"""No frame leaves the robot: not raw, not as JPEG or PNG, not in pieces, in nothing that crosses the broker."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from broker.wire.codec import pack, unpack
from broker.wire.messages import ActivationBatch, Receipt, RobotMetrics, RobotState, TrainerMetrics, TrainerState
from broker.wire.quantize import Quantized, pack_activations, unpack_activations
from robot_edge.run.secret_seed import FILE as SEED_FILE
from tests.conftest import SEED

if TYPE_CHECKING:
    from tests.end_to_end.conftest import MainJob

# What robot and trainer say is the same at either broker, and amqtt is always there.
pytestmark = pytest.mark.parametrize("main_job", ["amqtt"], indirect=True, scope="module")

# A piece of a frame this long is no accident in noisy pictures: 21 pixels, or 4 rows of one colour.
WINDOW = 64
SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n")


@pytest.fixture(scope="session", name="windows")
def _windows(pictures: Path) -> set[bytes]:
    """Pieces of every frame that the robot saw: of its pixels in either order, and of its file."""
    files = [*pictures.glob("train/*/*.png"), *pictures.glob("test/*/*.png")]
    assert len(files) == 680
    return {window for file in files for form in _forms(file) for window in _pieces(form)}


def _forms(file: Path) -> list[bytes]:
    with Image.open(file) as picture:
        pixels = np.asarray(picture)
    return [pixels.tobytes(), np.moveaxis(pixels, 2, 0).tobytes(), file.read_bytes()]


def _pieces(data: bytes) -> Iterable[bytes]:
    return (data[start : start + WINDOW] for start in range(0, len(data) - WINDOW + 1, WINDOW))


def _holds_a_frame(payload: bytes, windows: set[bytes]) -> bool:
    """Whether a piece of a frame, or an encoded picture, is anywhere in the payload."""
    pieces = (payload[start : start + WINDOW] for start in range(len(payload) - WINDOW + 1))
    return any(piece in windows for piece in pieces) or _holds_a_picture(payload)


def _holds_a_picture(payload: bytes) -> bool:
    starts = (match.start() for match in SIGNATURES.finditer(payload))
    return any(_is_a_picture(payload[start:]) for start in starts)


def _is_a_picture(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data)):
            return True
    except UnidentifiedImageError:  # the three bytes of JPEG's signature may come by chance
        return False


def _inside(payload: bytes) -> list[bytes]:
    """What a payload holds once it is decompressed: codes as bytes, which unpacked bits of pixels would be too."""
    message = unpack(payload)
    if not isinstance(message, ActivationBatch):
        return [payload]
    codes = unpack_activations(message.activations).codes
    return [payload, codes.tobytes(), np.moveaxis(codes, 1, -1).tobytes()]


def test_all_traffic_is_recorded(main_job: MainJob) -> None:
    messages = [unpack(payload) for topic, payload in main_job.traffic if payload and "main" in topic]
    batches = [message for message in messages if isinstance(message, ActivationBatch)]
    sent = {batch.sequence for batch in batches if batch.evaluation == 0}
    assert len(sent) == main_job.robot.summary["messages_sent"]
    assert sum(len(batch.labels) for batch in batches if batch.evaluation) >= main_job.robot.summary["held_out_images"]
    kinds = {type(unpack(payload)) for _, payload in main_job.traffic if payload}
    assert kinds == {ActivationBatch, Receipt, RobotMetrics, RobotState, TrainerMetrics, TrainerState}


def test_nothing_but_its_own_file_tells_a_secret_seed(main_job: MainJob) -> None:
    told = [str(SEED).encode(), *(SEED.to_bytes(8, order) for order in ("big", "little"))]
    for topic, payload in main_job.traffic:
        assert not any(seed in data for data in _inside(payload) for seed in told), topic
    folder = main_job.robot.run_dir
    assert (folder / SEED_FILE).read_text() == f"{SEED}\n"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != SEED_FILE]
    assert {"config.toml", "metrics.jsonl", "summary.json", "checkpoint.safetensors"} <= {path.name for path in files}
    assert not [path for path in files if any(seed in path.read_bytes() for seed in told)]
    assert str(SEED) not in main_job.robot.printed + main_job.trainer.printed


def test_no_message_holds_a_frame(main_job: MainJob, windows: set[bytes]) -> None:
    for topic, payload in main_job.traffic:
        assert not any(_holds_a_frame(data, windows) for data in _inside(payload)), topic


@pytest.mark.parametrize("form", ["rows", "channels", "png", "jpeg"])
def test_the_check_finds_a_frame(main_job: MainJob, windows: set[bytes], pictures: Path, form: str) -> None:
    payload = max((payload for _, payload in main_job.traffic), key=len)
    assert not _holds_a_frame(payload, windows)
    file = pictures / "train" / "red" / "7.png"
    rows, channels, png = _forms(file)
    jpeg = io.BytesIO()
    with Image.open(file) as picture:
        picture.save(jpeg, "JPEG")
    planted = {"rows": rows, "channels": channels, "png": png, "jpeg": jpeg.getvalue()}[form]
    assert _holds_a_frame(payload[:333] + planted + payload[333:], windows)


def test_the_check_finds_frames_sent_as_activations(main_job: MainJob, windows: set[bytes], pictures: Path) -> None:
    genuine = next(unpack(payload) for topic, payload in main_job.traffic if topic.endswith("/activations"))
    assert isinstance(genuine, ActivationBatch)
    with Image.open(pictures / "train" / "red" / "7.png") as picture:
        codes = np.moveaxis(np.asarray(picture), 2, 0)[None]
    scales = np.ones(3, np.float32)
    frames = pack_activations(Quantized(codes=codes, low=scales, step=scales, bits=8))
    one = dataclasses.replace(
        genuine, classes=("red",), labels=np.zeros(1, np.uint16), samples=np.zeros(1, np.uint32), activations=frames
    )
    planted = pack(one)
    assert any(_holds_a_frame(data, windows) for data in _inside(planted))

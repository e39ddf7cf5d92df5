"""An audit of a small run, from its folder to privacy.json and the sheet: what attackers find, and what it refuses."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierarchy.runtime.curves
import robot_edge as edge
import robot_edge.run.start
from broker.errors import ConfigError, SourceError, TooMuchLeaks
from broker.wire.codec import pack
from broker.wire.messages import ActivationBatch
from broker.wire.quantize import pack_activations, quantize
from cloud_trainer.store.sqlite import SqliteStore
from hierarchy.device import Compute
from hierarchy.runtime.command_line import StopRequest
from robot_edge.evaluation.saved_run import load_run, saved_settings
from robot_edge.learning.frame_memory import frames_in
from robot_edge.privacy import audit, payloads
from robot_edge.privacy.audit import privacy
from robot_edge.privacy.check import check_privacy
from robot_edge.privacy.config import Effort, PrivacyConfig
from robot_edge.privacy.wire import Wire

pytestmark = pytest.mark.slow

SIZE = 16
NAMES = "warm", "cold"
EFFORT = Effort(frames=420, attacked=120, decoder_steps=30, other_steps=10, inverted=8, inversion_steps=10, side=64)


def pictures(name: str, count: int, seed: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return pictures of smooth patches, warm ones with more red."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 200, (count, 3, 4, 4)).astype(np.float32))
    coarse[:, 0 if name == "warm" else 2] += 55
    smooth = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 255)
    return list(smooth.byte().permute(0, 2, 3, 1).contiguous().numpy())


@pytest.fixture(scope="module")
def _quick_start() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        cpu = Compute(device=torch.device("cpu"))
        patch.setattr(robot_edge.run.start, "fastest_compute", lambda *_, **__: cpu)
        patch.setattr(hierarchy.runtime.curves, "draw_curves", lambda *_: None)
        yield


def learned(folder: Path, **settings: Any) -> Path:
    """Let a robot learn a few pictures, and return the folder of its run."""
    small = {"cut": "layer1", "image_size": SIZE, "bottleneck": 8, "batch": 16, "held_out_every": 3, "seed": 0}
    pairs = [(one, name) for name in NAMES for one in pictures(name, 90, seed=1)]
    mixed = [pairs[place] for place in np.random.default_rng(0).permutation(len(pairs))]
    with edge.Robot("r1", run_dir=str(folder), **{**small, **settings}) as robot:
        for _ in robot.train(mixed):
            pass
    return folder


@pytest.fixture(scope="module")
def run(_quick_start: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def still_run(_quick_start: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("still"), freeze="all", exit="end", pool=2)


def folder_of(folder: Path, each: int) -> str:
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for number, one in enumerate(pictures(name, each, seed=2)):
            Image.fromarray(one).save(folder / name / f"{number:04}.png")
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"folder:{folder_of(tmp_path_factory.mktemp('frames') / 'pictures', 210)}"


@pytest.fixture(autouse=True)
def _little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivacyConfig, "effort", EFFORT)


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "privacy.json").read_text())
    return found


def test_an_unprotected_run_does_not_keep_the_line_and_the_same_seed_says_the_same(
    run: Path, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attribute = source.removeprefix("folder:")  # warm or cold, which is easily told
    for name in ("one", "two"):  # twice the same
        config = PrivacyConfig(
            checkpoint=str(run), source=source, attribute=attribute, out=str(tmp_path / name), most_attribute=0.6
        )
        with pytest.raises(TooMuchLeaks, match=r"where --most-ssim is 0\.35.*--most-found.*--most-attribute is 0\.6"):
            privacy(config)
    first, second = (figures(tmp_path / name) for name in ("one", "two"))
    for one in (first, second):
        for attack in one["attacks"]:
            del attack["seconds"]
    assert first == second
    by_who = {(one["attacker"], one["knows"]): one for one in first["attacks"]}
    nothing = by_who["the mean picture", "no payload"]
    assert first["found"] > 0.9 > 0.05 > nothing["found"]
    assert first["ssim"] > nothing["ssim"] + 0.3
    assert by_who["linear", "frames of the same kind"]["found"] > 0.9
    assert by_who["linear", "frames of other classes"]["found"] > 0.3
    assert by_who["search", "the front, and frames of the same kind"]["frames"] == 8
    assert first["matched"] == 1.0  # nothing random is added: the same frame crosses as the same codes
    assert first["attribute"]["found"] > 0.9 > first["attribute"]["guessed"]
    assert (first["own_frames"], first["attacked_frames"]) == (336, 84)
    with Image.open(tmp_path / "one" / "privacy.png") as sheet:
        assert sheet.height >= 9 * 96
    assert "THE LINE DOES NOT HOLD" in capsys.readouterr().out


def test_a_network_that_stands_still_is_attacked_through_its_averages_and_a_line_that_allows_all_holds(
    still_run: Path, source: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"source": source, "attacker_source": source, "out": str(tmp_path)}
    privacy(PrivacyConfig(checkpoint=str(still_run), most_ssim=1, most_found=1, **settings))
    found = figures(tmp_path)
    assert found["holds"]
    assert found["shape"] == [8, 2, 2]
    assert found["found"] > 0.3  # four averages of eight channels tell what a picture looks like
    assert found["attacks"][-1]["knows"] == "frames of --attacker-source"
    assert found["membership"]["frames"] >= 50


def test_what_a_trainer_stored_is_attacked_as_it_was_sent(run: Path, source: str, tmp_path: Path) -> None:
    saved = load_run(saved_settings(run), run)
    wire = Wire.of(saved, batch=16)
    sent = [one for one in frames_in(saved.checkpoint.rehearsal) if one.sample]
    crossed, _ = wire.crossed(np.stack([one.image for one in sent]))
    batch = ActivationBatch(
        boot="b" * 16,
        sequence=0,
        split=saved.split.fingerprint,
        evaluation=0,
        edge_version=1,
        edits=0,
        session=0,
        classes=NAMES,
        labels=np.array([NAMES.index(one.name) for one in sent], np.uint16),
        samples=np.array([one.sample for one in sent], np.uint32),
        again=True,
        activations=pack_activations(quantize(crossed, 4)),
    )
    store = SqliteStore(tmp_path / "store.db", {})
    store.append_message("r1", batch.boot, 0, pack(batch))
    store.append_message("r1", batch.boot, 1, b"no message")
    store.commit()
    store.close()
    config = PrivacyConfig(
        checkpoint=str(run), source=source, payloads=str(tmp_path / "store.db"), out=str(tmp_path / "out")
    )
    with pytest.raises(TooMuchLeaks):
        privacy(config)
    assert figures(tmp_path / "out")["attacked_frames"] == len(sent)
    assert figures(tmp_path / "out")["found"] > 0.9
    (tmp_path / "other.db").write_bytes(b"no database, but long enough to be read as one")
    with pytest.raises(ConfigError, match=r"other\.db cannot be read as a trainer's store\.db"):
        privacy(PrivacyConfig(checkpoint=str(run), source=source, payloads=str(tmp_path / "other.db")))


def test_a_run_that_remembers_nothing_is_said_to_have_nothing_to_tell_sent_frames_by(
    run: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "frames_in", lambda _: [])
    with pytest.raises(ConfigError, match=r"the run 'r1' remembers none: .* --rehearse 1"):
        privacy(PrivacyConfig(checkpoint=str(run), source=source, payloads="store.db"))


def test_too_few_frames_are_refused_with_how_many_it_takes(run: Path, source: str, tmp_path: Path) -> None:
    few = folder_of(tmp_path / "few", 20)
    with pytest.raises(SourceError, match=r"--source folder:.*few has 40 frames .* needs 250 at least"):
        privacy(PrivacyConfig(checkpoint=str(run), source=f"folder:{few}"))
    with pytest.raises(SourceError, match=r"--attribute folder:.*few has 40 frames .* needs 100 at least"):
        privacy(PrivacyConfig(checkpoint=str(run), source=source, attribute=few))


def test_ctrl_c_ends_it_and_nothing_is_written(
    run: Path, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked: list[StopRequest] = []

    class Asked(StopRequest):
        def __enter__(self) -> StopRequest:
            asked.append(self)
            return self

        def __exit__(self, *_error: object) -> None:
            pass

    def interrupted(*_: Any, on_step: Any, **__: Any) -> Iterator[Any]:
        asked[0].made = True
        assert on_step("decoder", 1)
        yield from ()

    monkeypatch.setattr(audit, "StopRequest", Asked)
    monkeypatch.setattr(audit, "attacks", interrupted)
    with pytest.raises(SystemExit) as end:
        privacy(PrivacyConfig(checkpoint=str(run), source=source, out=str(tmp_path / "out")))
    assert end.value.code == 130
    assert not (tmp_path / "out").exists()
    assert "nothing is written" in caplog.text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"checkpoint": "{empty}"}, "there is no run with a checkpoint"),
        ({"payloads": "{empty}/store.db"}, "--payloads .* does not exist"),
        ({"attribute": "{empty}/rooms"}, "--attribute"),
        ({"attribute": "{empty}/one"}, "--attribute .*one has one sub-folder"),
        ({"out": "{empty}/one/value/0000.png"}, "--out .* is no folder"),
        ({"attacker_source": "pictures"}, "--attacker-source"),
    ],
)
def test_what_is_not_there_is_said_at_once(
    run: Path, source: str, tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    (tmp_path / "one" / "value").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "value" / "0000.png")
    given: dict[str, Any] = {name: text.format(empty=tmp_path) for name, text in settings.items()}
    with pytest.raises(ConfigError, match=says):
        check_privacy(PrivacyConfig(**{"checkpoint": str(run), "source": source, **given}))


def test_a_line_is_a_share() -> None:
    with pytest.raises(ConfigError, match="--most-found 10: use 0 to 1"):
        PrivacyConfig(checkpoint="runs/r1", source="sim:", most_found=10)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from broker.errors import ConfigError
from broker.security.payload_keys import TrainerKeys, key_file, new_master
from hierarchy.runtime.checkpoint import CHECKPOINT
from hierarchy.runtime.run_folder import CONFIG, METRICS
from robot_edge.evaluation.evaluate import _cloud, settings_of_run
from robot_edge.run.config import EvaluateConfig, RobotConfig
from robot_edge.run.same_run import check_same_run, check_still_sealed, sealed_so_far
from robot_edge.run.start import prepare

STREAM = "rtsp://me:s3cret@cam/live"


@pytest.mark.parametrize("source", [STREAM, "rtsp://me:***@cam/live", "rtsp://me:other@cam/live"])
def test_a_run_goes_on_whatever_the_camera_s_password(source: str) -> None:
    former = RobotConfig.from_flags(source=STREAM).as_toml()
    check_same_run(former, RobotConfig.from_flags(source=source))


@pytest.mark.parametrize(
    "settings", [{"rate": "5"}, {"data_dir": "/data"}, {"width": 640, "height": 480}, {"fps": 5}, {"exposure": 9}]
)
def test_a_pace_and_a_camera_s_settings_may_change(settings: dict[str, Any]) -> None:
    check_same_run(
        RobotConfig.from_flags(source="camera:0").as_toml(), RobotConfig.from_flags(source="camera:0", **settings)
    )


@pytest.mark.parametrize("setting", ["source", "labels", "image_topic", "label_topic"])
def test_other_frames_or_labels_are_another_run(setting: str) -> None:
    former = RobotConfig.from_flags(source="bag:a").as_toml()
    settings: dict[str, Any] = {"source": "bag:a", setting: "b:c"}
    with pytest.raises(ConfigError, match=f"--{setting.replace('_', '-')} .* not 'b:c'"):
        check_same_run(former, RobotConfig.from_flags(**settings))


def test_a_run_that_was_sealed_does_not_go_on_in_the_clear(tmp_path: Path) -> None:
    config = RobotConfig.from_flags(source="sim:", seed=0, broker="mqtt://127.0.0.1:1", run_dir=str(tmp_path))
    sealed = replace(config, uplink=replace(config.uplink, payload_key="r1/payload.key"))
    (tmp_path / CONFIG).write_text(tomli_w.dumps(sealed.as_toml()))
    (tmp_path / METRICS).write_text("{}\n")  # else nothing was learned, and the folder holds no run
    with pytest.raises(ConfigError, match=r"sealed with --payload-key r1/payload\.key, and now no key is given"):
        prepare(config)
    check_still_sealed(sealed.as_toml(), tmp_path, is_sealed=True)


@pytest.mark.parametrize(("now", "named"), [({}, "off"), ({"privacy": "low"}, "low")])
def test_another_level_is_named_and_not_the_bits_that_it_comes_to(now: dict[str, Any], named: str) -> None:
    former = RobotConfig.from_flags(source="sim:", privacy="medium").as_toml()
    with pytest.raises(ConfigError, match=f"holds a run with --privacy 'medium', not '{named}'"):
        check_same_run(former, RobotConfig.from_flags(source="sim:", **now))


def test_what_was_hidden_stays_hidden() -> None:
    former = RobotConfig.from_flags(source="sim:", hide="people").as_toml()
    check_same_run(former, RobotConfig.from_flags(source="sim:", hide="people"))
    with pytest.raises(ConfigError, match="holds a run with --hide 'people', not 'none'"):
        check_same_run(former, RobotConfig.from_flags(source="sim:"))


def test_a_run_whose_credentials_named_its_key_does_not_go_on_in_the_clear_either(tmp_path: Path) -> None:
    (tmp_path / "payload.key").write_text(key_file(TrainerKeys.of(new_master()).of_robot("r1")))
    (tmp_path / "payload.key").chmod(0o600)
    (tmp_path / "credentials.toml").write_text('payload_key = "payload.key"\n')
    run = tmp_path / "run"
    given: dict[str, Any] = {"source": "sim:", "robot": "r1", "image_size": 16, "bottleneck": 2, "seed": 0}
    given |= {"broker": "mqtt://127.0.0.1:1", "run_dir": str(run)}
    ready = prepare(RobotConfig.from_flags(**given, credentials=str(tmp_path / "credentials.toml")))
    ready.source.close()
    assert ready.config.uplink.payload_key == str(tmp_path / "payload.key")
    run.mkdir()
    (run / CONFIG).write_text(tomli_w.dumps(ready.config.as_toml()))
    (run / METRICS).write_text("{}\n")
    with pytest.raises(ConfigError, match=r"payload\.key, and now no key is given"):
        prepare(RobotConfig.from_flags(**given))
    alone = prepare(RobotConfig.from_flags(**{**given, "broker": ""}))
    alone.source.close()
    assert alone.config.uplink.payload_key == ready.config.uplink.payload_key, "it may have a broker again"
    (run / "checkpoint").mkdir()
    (run / "checkpoint" / CHECKPOINT).write_bytes(b"")
    evaluation = EvaluateConfig(source="sim:", checkpoint=str(run), broker="mqtt://127.0.0.1:1")
    asked = settings_of_run(evaluation)
    assert asked.uplink.payload_key == ready.config.uplink.payload_key, "which an evaluation seals with"
    (tmp_path / "payload.key").unlink()
    nobody: Any = None
    with (
        pytest.raises(ConfigError, match=r"--payload-key .*payload\.key"),
        _cloud(evaluation, asked, nobody, nobody),
    ):
        pytest.fail("it connects")


def test_a_run_in_the_clear_with_the_weights_of_a_sealed_one_says_so() -> None:
    former = {"payload_key": "r1/payload.key"}
    assert sealed_so_far(former, is_sealed=False).endswith("--payload-key r1/payload.key seals them")
    assert not sealed_so_far(former, is_sealed=True)
    assert not sealed_so_far({}, is_sealed=False)
    assert not sealed_so_far(None, is_sealed=False)


def test_a_refusal_shows_no_password() -> None:
    with pytest.raises(ConfigError, match="rtsp") as error:
        check_same_run(
            RobotConfig.from_flags(source="sim:").as_toml(), RobotConfig.from_flags(source=STREAM, weights="none")
        )
    assert "s3cret" not in str(error.value)


def test_a_run_of_before_a_setting_existed_goes_on() -> None:
    former = {name: value for name, value in RobotConfig.from_flags(source="sim:").as_toml().items() if name != "rate"}
    check_same_run(former, RobotConfig.from_flags(source="sim:"))


def test_a_camera_may_look_elsewhere_but_a_replay_shows_other_frames_then() -> None:
    for source, may in (("camera:0", True), ("bag:a", False)):
        former = RobotConfig.from_flags(source=source).as_toml()
        now = RobotConfig.from_flags(source=source, look="25%,10%,50%,80%")
        if may:
            check_same_run(former, now)
            continue
        with pytest.raises(ConfigError, match=r"--look 'whole', not '25%,10%,50%,80%': choose another --run-dir"):
            check_same_run(former, now)


def test_remembered_frames_have_one_fit() -> None:
    former = RobotConfig.from_flags(source="camera:0").as_toml()
    with pytest.raises(ConfigError, match="--fit 'crop', not 'squash'"):
        check_same_run(former, RobotConfig.from_flags(source="camera:0", fit="squash"))

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

import robot_edge.commands
import robot_edge.run.start
from broker.errors import ConfigError
from hierarchy.runtime.command_line import with_config_file
from hierarchy.runtime.run_folder import former_settings
from hierarchy.runtime.settings import flattened
from robot_edge.commands import app
from robot_edge.run.config import RobotConfig
from robot_edge.run.same_run import check_same_run
from tests.saved_state import golden_state


def config(**settings: Any) -> RobotConfig:
    return RobotConfig.from_flags(**{"source": "sim:", **settings})


BOUNDS: list[tuple[str, list[Any], list[Any]]] = [
    ("robot", ["a" * 64, "R-1_b"], ["", "a" * 65, "two words", "a/b", "+", "é"]),
    ("fleet", ["", "lab", "Hall_2-b", "x" * 64], ["the lab", "a/b", "x" * 65, "ö"]),
    ("broker", ["mqtts://host", "mqtt://[::1]:1884"], ["host:1883", "http://host", "mqtt://", "mqtt://host:x"]),
    ("bits", [1, 8], [-1, 9]),
    ("bottleneck", [0, 8192], [-2, 8193]),
    ("image_size", [8, 1024], [7, 1025]),
    ("epochs", [1], [0, 100_001]),
    ("images", [0], [-1]),
    ("held_out_every", [2], [1, 0, -1]),
    ("batch", [2, 1024], [1, 1025]),
    ("threads", [0], [-1, 1025]),
    ("rehearsal_mb", [0, 0.5], [-0.1, float("nan")]),
    ("rehearse", [-1, 0, 16], [-0.5, 16.5, float("inf")]),
    ("outbox_mb", [1, 0.5e7], [0.9, float("inf")]),
    ("checkpoint_every", [1], [0]),
    ("learning_rate", [1e-7, 100], [0, -1, 101, float("nan")]),
    ("seed", [-1, 0, 2**63 - 1], [-2, 2**63]),
    (
        "prediction_topic",
        ["", "prediction", "~/prediction", "/a_1/b"],
        ["/", "a//b", "a/", "/1a", "a-b", "~a", "a b", "é"],
    ),
    ("phases", ["a,b|c", "a , b"], ["a,,b", "|a", "a|", "x" * 65, "a\tb", "a,?"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, good, _ in BOUNDS for value in good])
def test_what_lies_within_its_bounds_is_taken(name: str, value: Any) -> None:
    assert flattened(config(**{name: value}))[name] == value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, _, bad in BOUNDS for value in bad])
def test_what_lies_outside_names_its_flag(name: str, value: Any) -> None:
    flag = "broker '" if name == "broker" else f"--{name.replace('_', '-')}"
    with pytest.raises(ConfigError, match=flag):
        config(**{name: value})


@pytest.mark.parametrize("share", ["no", "withdraw"])
def test_who_is_in_no_fleet_can_withdraw_nothing_from_it(share: Any) -> None:
    with pytest.raises(ConfigError, match=f"--share {share} .*--fleet NAME"):
        config(share=share)
    assert config(share=share, fleet="lab").share == share


def test_a_password_in_the_url_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="REFLEXARC_MQTT_PASSWORD") as error:
        config(broker="mqtt://me:secret@host")
    assert "secret" not in str(error.value)


def test_phases_and_frozen_layers_are_lists_of_names() -> None:
    assert config(phases="cat, dog|ship").source.phase_classes == [["cat", "dog"], ["ship"]]
    assert config().source.phase_classes == []
    assert config(freeze="stem, layer1,").network.frozen_layers == ("stem", "layer1")
    assert config().network.frozen_layers == ()


@pytest.mark.parametrize(
    ("settings", "rehearsed", "fresh"),
    [
        ({"source": "folder:x"}, 0, 64),  # shuffled: its own rehearsal
        ({"source": "folder:x", "phases": "a|b"}, 1, 32),
        ({"source": "sim:"}, 1, 32),
        ({"source": "sim:", "rehearse": 0.0}, 0, 64),
        ({"source": "folder:x", "rehearse": 3.0}, 3, 16),
        ({"source": "folder:x", "weights": "default"}, 0, 64),
        ({"source": "folder:x", "weights": "runs/r1"}, 1, 32),  # it knows what the folder does not show
        ({"source": "sim:", "rehearse": 16.0, "batch": 2}, 16, 1),
    ],
)
def test_rehearsal_follows_the_source_unless_it_is_set(settings: dict[str, Any], rehearsed: float, fresh: int) -> None:
    assert config(**settings).rehearsed_per_fresh == rehearsed
    assert config(**settings).fresh_per_batch == fresh


def test_a_run_has_a_folder_of_its_own() -> None:
    assert config(run_dir="here").run_path == Path("here")
    assert config(robot="r7").run_path.parts[0] == "runs"
    assert config(robot="r7").run_path.name.startswith("r7-2")


def parsed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> RobotConfig:
    """Return the settings that the command line `robot-edge run ...` comes to."""
    runs: list[RobotConfig] = []
    monkeypatch.setattr(robot_edge.run.start, "run", runs.append)
    monkeypatch.setattr(robot_edge.commands, "check_run", lambda config: None)  # none of the paths is there
    app.cli(prog="robot-edge", args=with_config_file(["run", *arguments]))
    (one,) = runs
    return one


def test_flags_win_over_the_file_and_the_file_over_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "robot.toml"
    file.write_text('source = "folder:x"\nbits = 8\nimage_size = 16\n')
    for arguments in (["--config", str(file), "--bits", "2"], ["--bits", "2", "--config", str(file)]):
        assert parsed(monkeypatch, *arguments) == config(source="folder:x", bits=2, image_size=16)


def test_the_settings_of_a_run_give_the_same_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for one in (
        config(),
        config(phases="a,b|c", freeze="stem", learning_rate=1e-4, credentials="r1.toml", durable=True, device="cpu"),
    ):
        (tmp_path / "config.toml").write_text(tomli_w.dumps(one.as_toml()))
        assert parsed(monkeypatch, "--config", str(tmp_path / "config.toml")) == one


def test_a_run_of_before_the_groups_goes_on_with_its_own_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = golden_state("robot", tmp_path)
    former = former_settings(folder)
    assert former is not None
    assert former["catch_up"] == "auto", "it was written before"
    again = parsed(monkeypatch, "--config", str(folder / "config.toml"), "--learning-rate", "0.01")
    check_same_run(former, again)
    assert again.network.bits == former["bits"]
    with pytest.raises(ConfigError, match="holds a run with --cut"):
        check_same_run({**former, "cut": "layer1"}, again)


@pytest.mark.parametrize("content", ["bitz = 4", 'bits = "four"', 'device = "abacus"'])
def test_an_unknown_key_or_value_in_the_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "robot.toml").write_text(f'source = "sim:"\n{content}\n')
    with pytest.raises(SystemExit) as end:
        parsed(monkeypatch, "--config", str(tmp_path / "robot.toml"))
    assert end.value.code == 2
    assert f"--{content.split()[0]}" in capsys.readouterr().err


def test_a_camera_s_password_is_in_no_file_and_no_log() -> None:
    settings = config(source="rtsp://me:s3cret@cam/live", held_out="http://cam/?pwd=s3cret")
    assert "s3cret" not in str(settings.as_toml())
    assert "s3cret" not in repr(settings)


def test_labels_of_a_held_out_video_are_its_own() -> None:
    with pytest.raises(ConfigError, match=r"--held-out video:b\.mp4: say with --held-out-labels"):
        config(source="video:a.mp4", labels="a.csv", held_out="video:b.mp4")
    with pytest.raises(ConfigError, match=r"--held-out-labels b\.csv: is for --held-out video:"):
        config(held_out="folder:b", held_out_labels="b.csv")
    assert config(held_out="video:b.mp4", held_out_labels="b.csv").source.options.labels == ""


def test_the_help_says_the_least_that_an_outbox_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--help")
    help_text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "What may wait on the disk for the cloud, in megabytes; at least 1." in help_text

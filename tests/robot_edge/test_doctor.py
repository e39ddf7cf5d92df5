"""`robot-edge doctor` and `cloud-trainer doctor` as people run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from broker.errors import ConfigError
from robot_edge import doctor
from robot_edge.doctor import DoctorConfig, cameras, examine
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["robot_edge", "cloud_trainer"])
def test_a_broker_that_is_named_has_to_be_there(program: str, tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", program, "doctor", "--broker", url, "--run-dir", str(tmp_path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    told = json.loads(done.stdout)
    states = {one["name"]: one["state"] for one in told["found"] if one["needed"]}
    assert states == {
        "python": "ok",
        "packages": "ok",
        "torch": "ok",
        "codecs": "ok",
        "disk": "ok",
        "broker": "problem",
    }
    assert (done.returncode, told["ok"], done.stderr) == (1, False, "")


def test_cameras_are_ok_where_one_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [(Path("/dev/video0"), "HD Webcam"), (Path("/dev/video2"), "Arm camera; /dev/video2 may not be opened")]
    monkeypatch.setattr(doctor, "list_cameras", lambda: there)
    monkeypatch.setattr(doctor, "device_trouble", lambda path: "" if path.name == "video0" else "may not be opened")
    (found,) = cameras()
    assert found.state == "ok"
    assert found.text.startswith("camera:/dev/video0 HD Webcam; camera:/dev/video2 Arm camera; /dev/video2 may not")
    monkeypatch.setattr(doctor, "device_trouble", lambda _: "may not be opened")
    (found,) = cameras()
    assert found.state == "problem"
    monkeypatch.setattr(doctor, "list_cameras", list)
    (found,) = cameras()
    assert (found.state, found.text.partition(";")[0]) == ("missing", "no /dev/video*")


def test_what_nothing_is_called_cannot_be_needed() -> None:
    with pytest.raises(ConfigError, match=r"--need camra: .*did you mean camera"):
        examine(DoctorConfig(need=("camra",)))

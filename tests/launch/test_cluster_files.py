"""The cluster's systemd units and its KubeRay manifest: with command lines that the program takes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cloud_trainer.cluster import commands
from cloud_trainer.cluster.config import ClusterConfig

FOLDER = Path(__file__).parents[2] / "launch" / "cluster"
UNITS = sorted(FOLDER.glob("*.service"))


def parsed(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> ClusterConfig:
    """Return the settings that `cloud-trainer cluster run` would run with."""
    runs: list[ClusterConfig] = []
    monkeypatch.setattr("cloud_trainer.cluster.run.run", runs.append)
    commands.cli(arguments)
    return runs.pop()


def test_the_manifest_starts_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, coordinator = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())
    assert (cluster["kind"], coordinator["kind"]) == ("RayCluster", "Deployment")
    (container,) = coordinator["spec"]["template"]["spec"]["containers"]
    command = [*container["command"], *container["args"]]
    assert command[:2] == ["cloud-trainer", "cluster"]
    config = parsed(monkeypatch, command[2:])
    head, actors = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"][0]
    for group in (head, actors):
        (pod,) = group["template"]["spec"]["containers"]
        places = {one["mountPath"] for one in pod["volumeMounts"]}
        assert {str(Path(config.credentials).parent), config.checkpoints} <= places, "all pods reach them"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_start_what_there_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = re.findall("^ExecStart=(.*)$", path.read_text(), flags=re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program.startswith("/opt/reflexarc/bin/")
    if Path(program).name == "ray":
        assert arguments[0] == "start"
        assert ("--head" in arguments) == (path.name == "ray-head.service")
        return
    arguments = [one for one in arguments[1:] if not one.endswith(".toml") and one != "--config"]
    config = parsed(monkeypatch, [*arguments, "--store", "postgresql://trainer@localhost/robots"])
    assert (config.trainer, config.ray) == ("t1", "auto")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_understands_the_units(path: Path, tmp_path: Path) -> None:
    unit = tmp_path / path.name
    text = re.sub("^ExecStart=\\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE)
    unit.write_text(re.sub("^(Requires|User)=.*\n", "", text, flags=re.MULTILINE))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")

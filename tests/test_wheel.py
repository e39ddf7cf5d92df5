"""What is in the wheel, that the sdist makes the same one, and that it installs."""

from __future__ import annotations

import ast
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from broker.errors import ConfigError
from broker.program.share import FOLDERS, copy_shared, shared
from broker.program.version import program_version
from tests.interpreters import find_interpreter, supported

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("broker", "hierarchy", "robot_edge", "cloud_trainer")
# Files as help, errors and docstrings name them.
NAMED = re.compile(r"\b(?:docs|launch|benchmarks|tests)/[\w./-]*\w|\b[A-Z]{4,}\.md\b")
LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.fixture(name="wheel", scope="module")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    with ZipFile(path) as wheel:
        yield wheel


def texts(path: Path) -> Iterator[str]:
    """Yield every text in a module, docstrings included, which flags have their help from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_file_that_help_or_errors_name_is_in_the_wheel(wheel: ZipFile) -> None:
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    named = {
        name for path in modules for text in texts(path) for name in NAMED.findall(re.sub(r"https?://\S+", "", text))
    }
    assert {"docs/security.md", "launch/robot.toml"} <= named
    assert sorted(name for name in named if f"broker/share/{name}" not in wheel.namelist()) == []


def test_every_link_of_a_page_in_the_wheel_leads_to_what_is_in_it(wheel: ZipFile) -> None:
    names = wheel.namelist()
    there = {*names, *(str(folder) for name in names for folder in PurePosixPath(name).parents)}
    links = {
        (page, posixpath.normpath(posixpath.join(posixpath.dirname(page), link)))
        for page in names
        if page.endswith(".md")
        for link in LINK.findall(wheel.read(page).decode())
        if "://" not in link
    }
    assert ("broker/share/docs/tutorial.md", "broker/share/ARCHITECTURE.md") in links
    assert sorted((page, to) for page, to in links if to not in there) == []


def test_the_wheel_has_all_code_and_no_more_than_people_need(wheel: ZipFile) -> None:
    names = wheel.namelist()
    for package in PACKAGES:
        there = {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}
        its = {name for name in names if name.startswith(f"{package}/") and "/share/" not in name}
        assert its == {*there, f"{package}/py.typed"}
    assert not [name for name in names if "__pycache__" in name or "/site/" in name or name.startswith("tests")]
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)
    assert {"broker/share/launch/systemd/robot-edge@.service", "broker/share/launch/compose.yaml"} <= set(names)


def test_the_metadata_say_who_made_it_and_where_to_turn(wheel: ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["Author"]
    addresses = dict(one.split(", ") for one in metadata.get_all("Project-URL", []))
    assert set(addresses) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}


@pytest.mark.parametrize("program", ["broker", "robot_edge", "cloud_trainer"])
def test_version_is_said_without_what_takes_time(program: str) -> None:
    code = (
        f"import sys, {program}.__main__ as program; sys.argv[1:] = ['--version']\n"
        "try: program.main()\n"
        "finally: assert not {'torch', 'tyro', 'numpy'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{program_version()}\n"


def test_pages_and_examples_are_copied_to_where_there_are_none(tmp_path: Path) -> None:
    copy_shared(tmp_path / "to")
    for name in ("docs/security.md", "launch/robot.toml", "README.md", "ARCHITECTURE.md"):
        assert (tmp_path / "to" / name).read_bytes() == (shared() / name).read_bytes()
    with pytest.raises(ConfigError, match=r"--to .* choose another folder"):
        copy_shared(tmp_path / "to")
    for name in FOLDERS:
        shutil.rmtree(tmp_path / "to" / name)
    (tmp_path / "to" / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"--to .* choose another folder"):
        copy_shared(tmp_path / "to")
    assert not (tmp_path / "to" / "docs").exists()
    assert (tmp_path / "to" / "README.md").read_text() == "mine"


def test_the_wheel_made_of_the_sdist_is_the_wheel_made_of_the_tree(wheel: ZipFile, tmp_path: Path) -> None:
    (path,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(path) as sdist:
        assert not [name for name in sdist.getnames() if "/runs/" in name or "/.venv/" in name]
        if hasattr(tarfile, "data_filter"):
            sdist.extraction_filter = tarfile.data_filter
        sdist.extractall(tmp_path)
    (tree,) = (one for one in tmp_path.iterdir() if one.is_dir())
    (again,) = WheelBuilder(str(tree)).build(directory=str(tmp_path), versions=["standard"])
    with ZipFile(again) as other:
        assert {one.filename: one.CRC for one in other.infolist()} == {
            one.filename: one.CRC for one in wheel.infolist()
        }


@pytest.mark.parametrize("version", supported())
def test_the_wheel_installs_into_an_empty_environment_and_every_file_compiles(
    wheel: ZipFile, version: str, tmp_path: Path
) -> None:
    python = find_interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not on this machine")
    subprocess.run([str(python), "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    inside = str(tmp_path / "bin" / "python")
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel.filename)]
    subprocess.run([sys.executable, "-m", "pip", "--python", inside, *install], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for program in ("robot-edge", "cloud-trainer", "local-broker"):
        command = [str(tmp_path / "bin" / program), "--version"]
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (said.returncode, said.stdout) == (0, f"{program_version()}\n"), said.stderr
    compiled = [inside, "-W", "error", "-m", "compileall", "-q", str(tmp_path / "lib")]
    done = subprocess.run(compiled, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")

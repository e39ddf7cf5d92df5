"""Which interpreters of those that the project supports are on this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from email.parser import Parser
from importlib import metadata
from pathlib import Path

CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)")


def supported() -> list[str]:
    """Return the versions that the project says it runs on, such as 3.10."""
    classifiers = Parser().parsestr(str(metadata.metadata("reflexarc"))).get_all("Classifier", [])
    return [found[1] for one in classifiers if (found := CLASSIFIER.fullmatch(one))]


def find_interpreter(version: str) -> Path | None:
    """Return a Python of that version, on the path or of pyenv, that can make an environment; None for none."""
    by_path = shutil.which(f"python{version}")
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    code = f"import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for one in [*([Path(by_path)] if by_path else []), *of_pyenv]:
        if (
            subprocess.run([str(one), "-c", code], capture_output=True).returncode == 0
        ):  # a shim of pyenv's may lead nowhere
            return one
    return None

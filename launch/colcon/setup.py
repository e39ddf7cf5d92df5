"""What colcon builds a Python package with. In the checkout: ln -s launch/colcon/setup.py (docs/how-to/use-ros2.md)."""

import re
from pathlib import Path
from typing import Any

from setuptools import Distribution, find_packages, setup

PACKAGES = ("broker", "hierarchy", "robot_edge", "cloud_trainer")


class WithoutPyproject(Distribution):
    """pyproject.toml is for pip: the setuptools of ROS 2 Jazzy refuse its license."""

    def parse_config_files(self, *_: Any, **__: Any) -> None:
        pass


setup(
    distclass=WithoutPyproject,
    name="reflexarc",
    version=re.findall("<version>(.+)</version>", Path("package.xml").read_text())[0],
    packages=find_packages(include=[pattern for name in PACKAGES for pattern in (name, f"{name}.*")]),
    package_data={name: ["py.typed"] for name in PACKAGES},
    data_files=[
        ("share/ament_index/resource_index/packages", ["launch/colcon/reflexarc"]),
        ("share/reflexarc", ["package.xml"]),
        ("share/reflexarc/launch", ["launch/robot.launch.py"]),
    ],
    entry_points={
        "console_scripts": [
            "robot-edge = robot_edge.__main__:main",
            "cloud-trainer = cloud_trainer.__main__:main",
            "local-broker = broker.__main__:main",
        ]
    },
)

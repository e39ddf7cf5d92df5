"""A robot that sees a topic of ROS 2: ros2 launch reflexarc robot.launch.py source:=ros2:/camera/image_raw robot:=r1"""

import shlex
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

# Seconds in which it writes its checkpoint before it is ended.
STOPPING = "60"
ARGUMENTS = {
    "source": ("ros2:/camera/image_raw", "where pictures come from"),
    "robot": ("r1", "the robot's name"),
    "broker": ("mqtt://127.0.0.1:1883", "the MQTT broker"),
    "run_dir": ("", "where the run is kept, and goes on from; empty for nowhere"),
    "flags": ("", "further flags, as on the command line: flags:='--page 8080 --prediction-topic /seen'"),
}


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, and the program that is started with them."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_robot)])


def _robot(context: LaunchContext) -> list[Any]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    flags = shlex.split(given.pop("flags"))
    named = [part for name, value in given.items() if value for part in (f"--{name.replace('_', '-')}", value)]
    return [
        ExecuteProcess(
            cmd=["robot-edge", "run", *named, *flags], name="robot_edge", output="screen", sigterm_timeout=STOPPING
        )
    ]

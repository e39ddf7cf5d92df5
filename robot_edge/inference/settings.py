"""Settings of a robot that is taught while it sees."""

from __future__ import annotations

import re
from dataclasses import dataclass

from broker.errors import ConfigError
from hierarchy.runtime.command_line import check_range

# What ROS 2 takes as a topic's name.
ROS_TOPIC = re.compile(r"(~/|/)?[a-z_]\w*(/[a-z_]\w*)*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """Seeing live: when the cloud is asked, and where predictions go."""

    live: bool = False
    """See as through a camera, the newest frame only, and learn what `robot-edge teach` says that it shows; labels of
    the source are not looked at. Cameras and streams always are."""
    threshold: float = 0.8
    """When live: the calibrated confidence from which the exit's answer stands; the cloud is asked about other
    frames. 0 asks about none."""
    ask_deadline: float = 0.3
    """When live: seconds in which the cloud has to answer; then the exit's answer stands."""
    predictions_per_second: float = 5.0
    """When live: predictions published in a second while they stay the same; another one is at once."""
    prediction_topic: str = ""
    """The ROS 2 topic on which predictions are published, vision_msgs/Classification. Default: none, and of a ros2:
    source /reflexarc/ROBOT/prediction."""

    def __post_init__(self) -> None:
        check_range("threshold", self.threshold, 0, 1)
        check_range("ask-deadline", self.ask_deadline, 0, 60)
        check_range("predictions-per-second", self.predictions_per_second, 0.01, 1000)
        if self.prediction_topic and not ROS_TOPIC.fullmatch(self.prediction_topic):
            raise ConfigError(f"--prediction-topic {self.prediction_topic}: that is no name of a ROS 2 topic")

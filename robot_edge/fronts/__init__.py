"""Versions of a front that a run learned, for the robot's next run and for other robots."""

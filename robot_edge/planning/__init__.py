"""Where to cut, at how many bits, through how narrow a bottleneck: `robot-edge plan`."""

"""What a machine has of what a program needs, and what mends the rest: `robot-edge doctor`, `cloud-trainer doctor`."""

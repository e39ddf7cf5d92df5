"""What a robot sees: predictions of the exit and of the cloud, and who is told."""

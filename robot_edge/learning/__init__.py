"""What a robot learns with: its segment, its frames, one step of training."""

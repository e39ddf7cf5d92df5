"""What comes in over the broker, and what the trainer says there."""

"""What robots ask between their batches: to name a frame, and to time a network."""

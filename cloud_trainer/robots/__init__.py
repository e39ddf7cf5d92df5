"""All robots of a trainer: whether each is let in, its training, its checkpoints, and whose turn it is."""

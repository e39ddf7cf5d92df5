"""How much of a run's frames can be read off what it sends: attacked by ourselves, judged against a chosen line."""

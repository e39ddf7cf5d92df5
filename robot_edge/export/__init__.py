"""A run's network as a file that other runtimes run, checked against the run."""

"""The loops, and what a run is started, resumed and described with."""

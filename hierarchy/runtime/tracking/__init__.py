"""Figures of a run for trackers and viewers that others wrote: each in a process of its own, which may hang or die."""

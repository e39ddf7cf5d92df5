"""A broker for this machine."""

"""The log of everything that training depends on: what it can do (`log.py`), and where it is kept."""

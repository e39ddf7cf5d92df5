"""Exits that a fleet's robots are sent: made of what a session has, in idle time, and published."""

"""Frames and what they show, into a bag."""

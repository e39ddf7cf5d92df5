"""What activations tell of the frames that they were made of: attackers as functions on arrays, and how good each is.

Torch and numpy; no I/O, no network of ours, no settings. Whoever trains or plans may ask what leaks.
"""

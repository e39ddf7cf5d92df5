"""The divided network that both ends share. Knows no wire."""

"""What the ends say to each other and what carries it. Knows no torch."""

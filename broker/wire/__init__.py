"""What the ends say to each other, and how it looks as bytes. No sockets."""

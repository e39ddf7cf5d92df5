"""Who is who at the broker, and who may read and write what."""

"""A trainer of many processes on Ray: ingest takes messages in, actors train, and PostgreSQL is between them."""

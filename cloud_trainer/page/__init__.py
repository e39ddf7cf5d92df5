"""The trainer's page: what its loop tells it (board), the same for Prometheus, and how it looks (app, NiceGUI)."""

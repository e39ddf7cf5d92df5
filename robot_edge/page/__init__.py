"""The robot's page: what the main loop tells it (board), pictures (pictures), and how it looks (app, NiceGUI)."""

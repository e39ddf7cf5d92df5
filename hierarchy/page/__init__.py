"""What the pages of both ends share: settings, password, server, look. NiceGUI is imported by `server` and `look`."""

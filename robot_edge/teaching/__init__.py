"""What people tell a robot: lessons and commands, from a terminal, a page or MQTT."""

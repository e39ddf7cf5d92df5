"""LeRobot data sets, of versions 2 and 3: what they say of themselves, their rows, films and labels, as frames."""

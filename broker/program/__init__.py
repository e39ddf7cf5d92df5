"""What each of the programs needs before anything else: threads, paths, text on a terminal."""

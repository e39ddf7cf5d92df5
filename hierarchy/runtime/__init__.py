"""What a run needs beside its network: command line, run folder, curves, pages."""

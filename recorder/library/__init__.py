"""`recorder.open_archive`: an archive as a program reads it, and as a table."""

"""What the recorder is measured against, each a program of its own."""

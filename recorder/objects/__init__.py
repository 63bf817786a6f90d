"""Objects of a bucket, or of a folder in its place: put whole or not at all, read, listed. obstore has its home here."""

"""What clients have missed: kept in memory, found by position, read on in the archive, sent before the present."""

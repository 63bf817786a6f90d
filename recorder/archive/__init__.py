"""The on-disk format, written and read in one place: records, files, manifest."""

"""Coverage-guided fuzzing of what strangers and damaged disks can feed: `make fuzz`."""

"""The recorder's core on a virtual clock, with a network and a disk in memory that fail as one seed says."""

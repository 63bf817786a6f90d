"""A source: a Polygon-compatible exchange that plays recorded ticks or a seeded market, and misbehaves as told."""

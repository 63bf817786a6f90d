"""A Polygon-compatible exchange that plays real ticks or a seeded market, with faults on demand."""

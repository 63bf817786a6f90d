"""How a client is served where it asks for that: a snapshot first, values at intervals, less when it is slow."""

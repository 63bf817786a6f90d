"""Records Polygon.io (Massive.com) real-time market data into rotating NDJSON archives."""

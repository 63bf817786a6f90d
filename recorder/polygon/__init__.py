"""The Polygon.io (Massive.com) wire protocol, both sides, as plain objects: bytes in, decisions out, no I/O."""

"""NATS as a source: what a recorder has appended to the JetStream streams comes back. Imported where SOURCE names it."""

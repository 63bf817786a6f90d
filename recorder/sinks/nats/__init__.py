"""NATS as a sink: each cluster's frames, appended to a JetStream stream exactly once. Imported where SINK names it."""

"""Kafka as a sink: each cluster's frames or records as messages of a topic. Imported where SINK names it."""

"""Consumers that clients connect to: the firehose, the filtered and the bars server."""

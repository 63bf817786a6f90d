"""When the market of each cluster is open, so that silence can be judged: the hours, their sources, their keeper."""

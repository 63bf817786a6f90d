"""When the market of each cluster is open, so that silence can be judged: hours, where they come from, who keeps them."""

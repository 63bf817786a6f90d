"""The access log: who received what of the data, in a file of its own, for whoever has to account for it."""

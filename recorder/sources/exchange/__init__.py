"""The live source: one connection to the exchange per cluster."""

"""What programs follow a recorder, or the exchange, with."""

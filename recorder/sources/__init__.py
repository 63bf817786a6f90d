"""Sources: what puts batches on the bus.

`exchange` follows one cluster of the exchange, or of another recorder's firehose, which speaks the same protocol: there it
asks for what was missed, and leaves silence to the other recorder's judgement.
"""

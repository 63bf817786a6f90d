"""The source that plays archives: what was recorded goes through the same servers once more, at a pace of its own.

`reader` reads on a thread, `pace` is the one clock of all clusters, `player` puts what is due on the bus.
"""

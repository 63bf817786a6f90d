"""Bars over decimals, as they were made before there were bars over integers: the oracle that these are held against.

The arithmetic is Python's own, and the text of a bar is what it spells.
"""

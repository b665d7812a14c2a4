"""Data: files to validated arrays on the host, before any market is built.

`sources.load` reads a history, `bars.PriceHistory` holds it, `splits.load_split` cuts it into
train, validation and test. Imports core only.
"""

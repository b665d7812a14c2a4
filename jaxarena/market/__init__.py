"""What happens in a market: prices, orders, fills, books, margin.

Importing the package registers all components of this layer.
"""

from jaxarena.market import auction, dealer, history, indicators  # noqa: F401

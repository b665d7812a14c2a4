"""The call auction: everybody's limit orders meet at one price, found anew in every step.

`clear` is the rule alone, on arrays of orders of one market; `CallAuction` is the mechanism made of it.
"""

from jaxarena.market.auction.clearing import Cleared, clear, largest_order
from jaxarena.market.auction.mechanism import AuctionState, CallAuction

__all__ = ["AuctionState", "CallAuction", "Cleared", "clear", "largest_order"]

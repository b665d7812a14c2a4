"""What happens in a market: prices, orders, fills, books, margin."""

"""Texas Hold'em: a table whose state is more than 300 blocks, of which a bet changes a few."""

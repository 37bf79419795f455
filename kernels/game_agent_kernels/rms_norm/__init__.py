"""Root-mean-square normalisation, with the residual addition that precedes it."""

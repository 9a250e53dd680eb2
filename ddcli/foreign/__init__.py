"""Models that others trained. Reading this package is cheap; `openers` brings all of transformers with it."""

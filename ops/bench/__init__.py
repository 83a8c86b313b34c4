"""`mailvet bench engine`: how fast the verification engine is, and what it costs, beside its peers."""

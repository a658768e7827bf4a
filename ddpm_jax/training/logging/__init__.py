"""What a run records while it trains: a table of loggers, and the one that fans out to them."""

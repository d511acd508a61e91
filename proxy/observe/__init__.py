"""What an operator sees: the access record and the log."""

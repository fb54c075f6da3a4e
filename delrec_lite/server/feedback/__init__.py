"""What happened: the log of served lists and of the events that followed, and the report on it."""

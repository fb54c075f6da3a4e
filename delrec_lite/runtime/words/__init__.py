"""Words beside a history: how they are read, which items' texts they fit, and what they do to a ranking."""

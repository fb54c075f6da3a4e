"""Domain words and the tasks, compiled to token ids; the same code for training and serving. No torch."""

"""The words of a domain and the tasks, compiled to token ids; the same code for training and serving. No torch."""

"""The language model in training: loading, soft prompt, verbalizers."""

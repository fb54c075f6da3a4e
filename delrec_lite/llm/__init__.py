"""The language model: loading, soft prompt, verbalizers."""

"""The built-in verbalizers in training, one file each; their kinds are in ``delrec_lite.prompts.verbalizers``."""

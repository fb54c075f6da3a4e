"""The built-in verbalizers' training sides: a file each, named by the kinds in ``delrec_lite.prompts.verbalizers``."""

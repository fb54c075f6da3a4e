"""Export: merge, bake, quantise, check; imported as ``delrec_lite.export``."""

"""One loop with checkpoints and resume; stage 1 (distil) and stage 2 (fine-tune)."""

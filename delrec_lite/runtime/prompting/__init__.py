"""Turns requests into token ids: the stored prompt, and the encoder of histories and candidates."""

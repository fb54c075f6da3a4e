"""From a request to token ids: the stored prompt, and the encoder of histories and candidates."""

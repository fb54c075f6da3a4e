"""GGUF files read without llama.cpp: the header, checks before anything opens one, single rows."""

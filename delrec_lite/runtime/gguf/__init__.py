"""GGUF files read without llama.cpp: the header, its checks, single rows."""

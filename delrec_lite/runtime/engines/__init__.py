"""Engines: a bundle's model evaluated by llama.cpp or ONNX Runtime, and wrappers around an engine."""

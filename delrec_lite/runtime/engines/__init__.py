"""Engines: a bundle's model evaluated by llama.cpp or ONNX Runtime, and what is put around them."""

"""The softmax over a catalogue of any size: whole, in blocks, sampled; item vectors of which a step trains some."""

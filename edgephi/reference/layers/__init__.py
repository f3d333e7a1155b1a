"""The parts of a decoder layer in NumPy float32."""

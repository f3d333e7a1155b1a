"""Building models that see: what becomes of their encoder, and the proof of what it sees."""

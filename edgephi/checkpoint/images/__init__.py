"""Models that see: their image encoder, and where a checkpoint has it."""

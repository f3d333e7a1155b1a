"""LoRA adapters that PEFT saved, merged into the weights of a checkpoint as these are read."""

"""The Hugging Face hub, where most checkpoints come from."""

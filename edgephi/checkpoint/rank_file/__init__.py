"""Tokenizers that come as a file of ranks, tiktoken's form, and what `tokenizer.json` says instead."""

"""Text in and out: chat prompts, tokenizers, sampling, stop texts and answers that are JSON."""

"""What an engine computes and how fast, measured in processes of their own."""

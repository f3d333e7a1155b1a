"""The pages that commands write: each one file, with its plots, that needs nothing else."""

"""The bundle: the one contract that crosses from those who build to those who run."""

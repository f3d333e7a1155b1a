"""One file a model type, named like it: its config and its tensors' names. The folder is the registry."""

"""The terminal and the process around a command: what is typed, signals, standard streams."""

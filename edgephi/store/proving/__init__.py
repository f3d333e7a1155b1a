"""Whether a generation answers on this machine."""

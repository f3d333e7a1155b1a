"""Against strangers: what they send us, have us show, and tell their makers."""

"""The far side of a connection to a store: what a sender starts on a box."""

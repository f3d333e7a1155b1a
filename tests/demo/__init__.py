"""The demo checkpoint: how its language is made, how it is trained, how it is examined."""

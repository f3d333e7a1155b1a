"""Floor 4: one file an engine, each a layout of the same codes and, where the engine needs one, a graph."""

"""One folder an engine: a layout of the same codes and, where the engine needs one, a graph."""

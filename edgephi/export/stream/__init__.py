"""The one pass over a checkpoint that every exporter writes by."""

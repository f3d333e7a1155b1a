"""The adapters of the engines, a file or a folder each. Importing one imports no engine."""

"""How a model writes conversations: the family's formats, and templates, which are programs of strangers."""

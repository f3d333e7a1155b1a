"""Several stores at once: which are meant, what each said, and how to go on with those that failed."""

"""How far one answer to a text is from another: what the numbers of a certificate are made of."""

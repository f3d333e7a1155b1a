"""The bill of materials of a bundle: what it was made from and consists of, for other people's tools."""

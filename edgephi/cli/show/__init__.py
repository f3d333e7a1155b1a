"""What the commands print: tables, bars, sizes."""

"""The command line: each command is one thin file that parses, calls one function and prints."""

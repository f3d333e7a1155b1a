"""`python -m edgephi.cli`: the command line of exactly this Python, wherever its `edgephi` script is."""

from edgephi.cli.main import main

if __name__ == "__main__":
    main()

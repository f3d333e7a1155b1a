"""The program `edgephi`, and `python -m edgephi.cli`: that of exactly this Python."""

from edgephi.cli.interrupts import let_go_of_signals


def main() -> None:
    """Run the command line. Ctrl-C while it is still being imported ends it without a word."""
    let_go_of_signals()
    from edgephi.cli.main import main as run

    run()


if __name__ == "__main__":
    main()

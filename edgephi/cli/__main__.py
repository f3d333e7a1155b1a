"""The program `edgephi`, and `python -m edgephi.cli`: that of exactly this Python."""

# What `signal` is made of, and already there: that module itself brings half of the imports that a Ctrl-C
# at the start would land in.
import _signal  # type: ignore[import-not-found]
import os

_INTERRUPTED = 130


def _heed_interrupts() -> None:
    """Have Ctrl-C end the process without a word while all else is still being imported."""
    if _signal.getsignal(_signal.SIGINT) == _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, lambda _number, _frame: os._exit(_INTERRUPTED))


_heed_interrupts()


def main() -> None:
    """Run the command line."""
    from edgephi.cli.terminal.interrupts import let_go_of_signals

    let_go_of_signals()
    from edgephi.cli.main import main as run

    run()


if __name__ == "__main__":
    main()

"""What the commands say of the machine that they measured."""

from edgephi.cli.show.say import say
from edgephi.machine.host import Host


def machine_line(host: Host, bytes_per_second: float) -> str:
    """The machine in a line, for the head of what was measured or foretold for it."""
    processor = host.processor
    return (
        f"{host.board or processor.model}, {processor.usable_cores} threads, "
        f"{host.memory_bytes / 1e9:.1f} GB of memory read at {bytes_per_second / 1e9:.1f} GB/s"
    )


def warn_when_busy(host: Host) -> None:
    """Say so on standard error when other programs are in the way of a measurement."""
    if host.is_busy:
        say(
            f"warning: other programs take {host.busy_percent:.0f} % of the processors: "
            "speeds will be too low",
            err=True,
        )

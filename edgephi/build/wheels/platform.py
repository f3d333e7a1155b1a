"""The Python of a device, by a short name such as `linux-aarch64-cp311`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgephi.commands import shell_command
from edgephi.errors import NotSupportedError, UsageError

_NAME = re.compile(r"linux-(x86_64|aarch64)-cp3(\d{1,2})(?:-glibc2\.(\d{1,2}))?")
_OLDEST_PYTHON = 11
# Platform tags from before PEP 600, and the minor version of glibc that each stands for.
OLDER_TAGS: Mapping[str, int] = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
# Minor version of glibc in the distribution that brings this Python: Debian 12, Ubuntu 24.04, Debian 13.
_GLIBC_OF_PYTHON: Mapping[int, int] = {11: 36, 12: 39, 13: 41}
_LATEST_RELEASE = 99
# For a device's own Python: it prints the name of its platform.
_TELL = 'import platform, sys; print("linux-%s-cp%d%d" % (platform.machine(), *sys.version_info[:2]))'
_EXAMPLES = "linux-aarch64-cp311 or linux-x86_64-cp312"


@dataclass(frozen=True)
class Platform:
    """A CPython on Linux with glibc. `machine` as `uname -m` prints it, `python` 11 for Python 3.11.

    `glibc` is the newest that wheels may ask for: 36 for glibc 2.36.
    """

    name: str
    machine: str
    python: int
    glibc: int

    @property
    def python_version(self) -> str:
        """Such as "3.11"."""
        return f"3.{self.python}"

    @property
    def tags(self) -> tuple[str, ...]:
        """Platform tags, those of the oldest glibc first: of one version's wheels pip takes the first."""
        tags = []
        for minor in range(min(OLDER_TAGS.values()), self.glibc + 1):
            tags += [older for older, glibc in OLDER_TAGS.items() if glibc == minor]
            tags.append(f"manylinux_2_{minor}")
        return tuple(f"{tag}_{self.machine}" for tag in tags)

    @property
    def markers(self) -> tuple[dict[str, str], ...]:
        """The environment markers (PEP 508) as the device's Python may see them: first and latest release."""
        return tuple(
            {
                "implementation_name": "cpython",
                "implementation_version": f"{self.python_version}.{release}",
                "os_name": "posix",
                "platform_machine": self.machine,
                "platform_python_implementation": "CPython",
                "platform_release": "",
                "platform_system": "Linux",
                "platform_version": "",
                "python_full_version": f"{self.python_version}.{release}",
                "python_version": self.python_version,
                "sys_platform": "linux",
            }
            for release in (0, _LATEST_RELEASE)
        )


def read_platform(name: str) -> Platform:
    """The platform of that name. Raises UsageError, and NotSupportedError for a Python that is too old."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise UsageError(
            f"--wheels: expected a platform such as {_EXAMPLES}, found {name!r}",
            hint=f"on the device: {shell_command('python3', '-c', _TELL)}",
        )
    python = int(parts[2])
    if python < _OLDEST_PYTHON:
        raise NotSupportedError(
            f"--wheels {name}: expected Python 3.{_OLDEST_PYTHON} or newer, found 3.{python}",
            hint="install a newer Python on the device",
        )
    newest = max(_GLIBC_OF_PYTHON)
    glibc = int(parts[3]) if parts[3] else _GLIBC_OF_PYTHON[min(python, newest)]
    return Platform(name, parts[1], python, glibc)

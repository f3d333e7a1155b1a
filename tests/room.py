"""The loop of ten seconds: lint, types and the quick tests of the room that you are in.

`python -m tests.room` looks at the rooms of the files that differ from the last commit, `python -m tests.room
edgephi/store/trust` at one. ruff and mypy look at the whole house meanwhile. Tests that failed last time come
first, then the quickest; when the time is over no other is begun, and the last line says how many are left.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECONDS = 10.0
_DURATIONS = "room/seconds"
_UNKNOWN_SECONDS = 0.5  # a test that never ran here
_ALWAYS = ("tests/test_floors.py",)
_CHECKS = (("ruff", "check", "-q"), ("ruff", "format", "--check", "-q"), ("mypy", "--no-error-summary"))


def main() -> None:
    """Check, test, and end with 1 when anything is wrong."""
    arguments = argparse.ArgumentParser(prog="python -m tests.room", description=__doc__)
    arguments.add_argument("paths", nargs="*", help="files or folders of edgephi/ or tests/")
    arguments.add_argument("--seconds", type=float, default=SECONDS, help="begin no test after so many")
    options = arguments.parse_args()
    start = time.monotonic()
    paths = options.paths or _changed()
    if not paths:
        sys.exit("nothing differs from the last commit: name a room, such as edgephi/quantize")
    rooms = sorted({room for path in paths for room in where_tested(path)})
    if not rooms:
        sys.exit(f"{', '.join(paths)}: expected files or folders of edgephi/ or tests/")
    checks = [
        subprocess.Popen(
            [Path(sys.executable).parent / words[0], *words[1:]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words in _CHECKS
    ]
    quiet = ["-q", "-m", "not slow", "--no-header", "-r", "fE", "--rootdir", str(ROOT)]
    quickest = _Quickest(start, options.seconds)
    code = pytest.main([*quiet, *(str(ROOT / room) for room in rooms)], plugins=[quickest])
    unfinished = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.NO_TESTS_COLLECTED)
    wrong = quickest.failed > 0 or code not in (pytest.ExitCode.OK, *unfinished)
    for check in checks:
        said = check.communicate()[0].strip()
        wrong |= check.returncode != 0
        print(*([said] if said else []), sep="\n", end="\n" if said else "")
    print(f"{', '.join(rooms)}: {'wrong' if wrong else 'well'} after {time.monotonic() - start:.0f} s")
    sys.exit(wrong)


def where_tested(path: str) -> list[str]:
    """The tests of a file or folder, as paths below the repository: those that lie as it lies."""
    given = Path(path)
    inside = given.resolve().relative_to(ROOT) if given.is_absolute() else given
    parts = inside.with_suffix("").parts
    if parts[:1] == ("tests",):
        if inside.name.startswith("test_") or (ROOT / inside).is_dir():
            return [inside.as_posix()]
        return [inside.parent.as_posix()] if len(parts) > 2 else []
    if parts[:1] != ("edgephi",):
        return []
    own = Path("tests", *parts[1:-1], f"test_{parts[-1]}.py")
    if inside.suffix and (ROOT / own).is_file():
        return [own.as_posix(), *_ALWAYS]
    for depth in range(len(parts), 1, -1):
        folder = Path("tests", *parts[1:depth])
        if (ROOT / folder).is_dir():
            return [folder.as_posix(), *_ALWAYS]
    return list(_ALWAYS)


def _changed() -> list[str]:
    """Files that differ from the last commit, or are new."""
    status = ("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=all", "--no-renames")
    lines = subprocess.run(status, check=True, capture_output=True, text=True).stdout.splitlines()
    return [line[3:] for line in lines if line[3:].endswith(".py")]


class _Quickest:
    """Orders the tests, and begins none after the time is over."""

    def __init__(self, start: float, seconds: float) -> None:
        self._end = start + seconds
        self._seconds: dict[str, float] = {}
        self._left = 0
        self.failed = 0

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Those that failed come first, then the quickest."""
        cache = config.cache
        assert cache is not None
        self._seconds = cache.get(_DURATIONS, {})
        failed: Iterable[str] = cache.get("cache/lastfailed", {})
        items.sort(
            key=lambda item: (item.nodeid not in failed, self._seconds.get(item.nodeid, _UNKNOWN_SECONDS))
        )
        self._left = len(items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how long each takes, its fixtures included."""
        before = 0.0 if report.when == "setup" else self._seconds.get(report.nodeid, 0.0)
        self._seconds[report.nodeid] = before + report.duration

    def pytest_runtest_logfinish(self) -> None:
        """Count."""
        self._left -= 1

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Begin no other when the time is over."""
        if time.monotonic() > self._end and self._left:
            item.session.shouldstop = f"{self._left} tests are left: the time is over"

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep what was measured."""
        self.failed = session.testsfailed
        cache = session.config.cache
        assert cache is not None
        cache.set(_DURATIONS, self._seconds)


if __name__ == "__main__":
    main()

"""Standard streams that are closed, full or unread: an exit code and a line, never a traceback."""

import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.test_blank_arguments import calls

PROGRAM = shlex.join([sys.executable, "-m", "edgephi.cli"])
Done = subprocess.CompletedProcess[str]


def shell(line: str, folder: Path) -> Done:
    """Run a line of bash, in which `$edgephi` is our command."""
    return subprocess.run(
        ["bash", "-c", f"edgephi={shlex.quote(PROGRAM)}\n{line}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        check=False,
    )


def of_every_command(ending: str, folder: Path, *, with_help: bool = False) -> list[tuple[str, Done]]:
    """Every command with arguments that are well written and name nothing that is there, or with --help."""
    lines = []
    for command, call in calls():
        if command == "doctor" and not with_help:  # it measures, so that it never says the same
            continue
        words = [word.replace("demo", "no-such-model") for word in call]
        words += ["-o", "no-such-folder/demo"] if command == "quickstart" else []
        lines.append(f"$edgephi {command} {'--help' if with_help else shlex.join(words)} {ending}")

    def done_in_own_folder(line: str) -> Done:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            return shell(line, Path(own))

    with ThreadPoolExecutor(4) as pool:
        return [
            (line.removesuffix(ending), done)
            for line, done in zip(lines, pool.map(done_in_own_folder, lines), strict=True)
        ]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Done]]:
    """How every command ends with all of its streams."""
    return of_every_command("", tmp_path_factory.mktemp("given"))


def unclean(done: Done) -> bool:
    return any(word in done.stderr for word in ("Traceback", "bug in edgephi", "Exception ignored"))


def without_reader() -> int:
    """The end to write to of a pipe that nobody reads."""
    incoming, outgoing = os.pipe()
    os.close(incoming)
    return outgoing


def test_run_without_input_says_that_the_prompt_is_missing(demo_bundle: Path, tmp_path: Path) -> None:
    done = shell(f"$edgephi run {demo_bundle} <&-", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: expected a prompt, found none\nhint: ")
    assert shell(f"$edgephi run {demo_bundle} - <&-", tmp_path).returncode == 2
    assert shell(f"$edgephi run {demo_bundle} 'turn on the light' <&-", tmp_path).returncode == 0
    done = shell(f"$edgephi chat {demo_bundle} <&-", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: expected messages on standard input, found it closed\nhint: ")


def test_no_command_fails_in_another_way_because_its_input_is_closed(
    given: list[tuple[str, Done]], tmp_path: Path
) -> None:
    for (line, closed), (_, ended) in zip(of_every_command("<&-", tmp_path), given, strict=True):
        if "$edgephi run" not in line and "$edgephi chat" not in line:
            assert closed.returncode == ended.returncode, line
        assert not unclean(closed), line


def test_no_command_works_for_an_output_that_is_closed(tmp_path: Path) -> None:
    for line, done in of_every_command(">&-", tmp_path):
        assert done.returncode == 2, line
        assert done.stderr.splitlines()[0] == "error: expected standard output to be open, found it closed"
    assert list(tmp_path.iterdir()) == []


def test_a_closed_error_output_changes_no_exit_code(given: list[tuple[str, Done]], tmp_path: Path) -> None:
    for (line, closed), (_, ended) in zip(of_every_command("2>&-", tmp_path), given, strict=True):
        assert closed.returncode == ended.returncode, line


def test_a_full_disk_for_the_output_is_told(tmp_path: Path) -> None:
    for line, done in of_every_command(">/dev/full", tmp_path, with_help=True):
        assert done.returncode == 3, line
        first, hint = done.stderr.splitlines()
        assert first == "error: standard output: No space left on device", line
        assert hint.startswith("hint: "), line


def test_a_reader_that_goes_away_ends_a_command_without_a_word() -> None:
    outgoing = without_reader()
    for command, _ in calls():
        done = subprocess.run(
            [sys.executable, "-m", "edgephi.cli", *command.split(), "--help"],
            stdout=outgoing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (141, ""), command
    os.close(outgoing)


def test_answers_into_a_full_disk_and_into_no_pipe(demo_bundle: Path, tmp_path: Path) -> None:
    ask = f"$edgephi run {demo_bundle} 'turn on the kitchen light' --max-tokens 100"
    done = shell(f"{ask} >/dev/full", tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-2] == "error: standard output: No space left on device"
    assert not unclean(done)
    outgoing = without_reader()
    gone = subprocess.run(
        [sys.executable, "-m", "edgephi.cli", "run", str(demo_bundle), "turn on the kitchen light"],
        stdout=outgoing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(outgoing)
    assert gone.returncode == 141
    assert not unclean(gone)


def test_progress_that_nobody_can_hear_stops_no_build(tmp_path: Path) -> None:
    done = shell("$edgephi build demo --target cpu --verify off -o bundle 2>/dev/full", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "bundle" / "bundle.json").is_file()


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_what_is_closed_lends_its_number_to_no_file(tmp_path: Path, closed: str) -> None:
    """Else what is printed, by us or by an engine, would be written into the next file that is opened."""
    done = shell(f"$edgephi build demo --target cpu -o bundle {closed}", tmp_path)
    assert done.returncode == 0
    assert shell("$edgephi verify bundle", tmp_path).returncode == 0

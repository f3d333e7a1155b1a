"""Commands in messages: what stands in them is quoted, works as pasted, and destroys nothing."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgephi
from edgephi.cli.listing import COMMANDS
from edgephi.commands import edgephi_command, place, shell_command

PACKAGE = Path(edgephi.__file__).parent
MAKERS = {"edgephi_command", "install_command", "pip_command", "shell_command"}
HOSTILE = [
    "my bundle",
    "it's",
    '"quoted"',
    "$(touch pwned)",
    "`touch pwned`",
    "a;touch pwned",
    "a&touch pwned",
    "-rf",
    "--help",
    "~",
    "*",
    "#x",
    "!!",
    "box:phi",
    "two  spaces",
    "new\nline",
    "escape\x1b[2J",
    "back\\slash",
    "mixed\n'\\$(touch pwned)`\x07",
    "right to left \u202e",
    "größe",
    "bytes\udcff",
    "",
]

# Our own command with one of its commands or an option behind it, and other programs with something behind.
PROGRAMS = "rm|rmdir|mkdir|mv|cp|ln|dd|tee|truncate|shred|pip|chmod|chown|umask|sudo|apt|docker|openssl|kill|"
PROGRAMS += "systemctl|curl|wget|git|ssh|ssh-keygen|python3?"
COMMAND = re.compile(
    rf"(?<![\w./-])edgephi (?:--?[\w]|(?:{'|'.join(COMMANDS)})\b(?!:))"
    rf"|(?:^|[`(;:&|] ?|\bsudo )(?:{PROGRAMS}) (?:-|\S*[/.*$~'\"=]|$)"
    r"|\bpip install (?:--\S+ )*['\"\0\1e]"
    rf"|(?:^|[`(;:&|] ?)(?:mkdir|rmdir|rm|chmod|chown|dd|umask|sudo|docker|openssl|git) "
)
# How the programs begin that edgephi itself gives to a shell.
SCRIPTS = ("#!/bin/sh\n", "for p in python3 ")
# What removes or overwrites: no hint says so, whatever it is about.
DESTROYS = {"rm", "rmdir", "mv", "truncate", "shred", "tee", "mkfs"}


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each string that may reach a user, with NUL for a field that no maker has made.

    Docstrings are for readers of the code, `help` texts are fixed and name the command itself, and the words
    of a maker are quoted.
    """
    tree = ast.parse(source)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        if isinstance(node, ast.Call):
            if made(node):
                skipped.update(each for child in ast.iter_child_nodes(node) for each in ast.walk(child))
            for keyword in node.keywords:
                if keyword.arg == "help":
                    skipped.update(ast.walk(keyword.value))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = []
            for value in node.values:
                if isinstance(value, ast.Constant):
                    parts.append(str(value.value))
                    skipped.add(value)
                else:
                    assert isinstance(value, ast.FormattedValue)
                    parts.append("\1" if made(value.value) else "\0")
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def made(node: ast.expr) -> bool:
    """Whether an expression is a call of one of the makers."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS


def written_commands(source: str) -> list[tuple[int, str]]:
    """The texts that hold a command which no maker has made; programs for a shell are none."""
    return [
        (line, text) for line, text in texts(source) if COMMAND.search(text) and not text.startswith(SCRIPTS)
    ]


def made_commands(source: str) -> Iterator[tuple[int, list[object]]]:
    """Line and the fixed words of every command that is made; None stands for the others."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.expr) and made(node):
            assert isinstance(node, ast.Call)
            yield node.lineno, [word.value if isinstance(word, ast.Constant) else None for word in node.args]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_text_holds_a_command_that_was_not_made_from_words(path: Path) -> None:
    assert written_commands(path.read_text(encoding="utf-8")) == []


def unmarked_commands(source: str) -> list[tuple[int, str]]:
    """The texts in which a made command stands beside words that a shell would take for a part of it."""
    return [
        (line, text.replace("\1", "COMMAND"))
        for line, text in texts(source)
        if any("\1" in part.replace("`\1`", "").strip().removesuffix("\1") for part in text.split("\n"))
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_a_command_in_a_sentence_is_marked_as_one(path: Path) -> None:
    """Between backticks, unless it ends its line: else what follows would be pasted with it."""
    assert unmarked_commands(path.read_text(encoding="utf-8")) == []


def test_no_command_removes_or_overwrites() -> None:
    found = [
        (path.name, line, words)
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, words in made_commands(path.read_text(encoding="utf-8"))
        if DESTROYS & {word for word in words if isinstance(word, str)}
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        'hint=f"rm -r {folder}"',
        'hint=f"remove it first (rm -r {folder}), or not"',
        'hint=f"mkdir -p {folder}"',
        'hint=f"mkdir {folder}"',
        'hint=f"chmod 600 {path}; or not"',
        'hint=f"`edgephi gc {root}` removes it"',
        'hint="see edgephi doctor"',
        'hint="run `edgephi --debug` again"',
        "click.echo(f\"  edgephi run {output} 'hello'\")",
        'lines.append(f"then: dd if={file} of=/dev/sdX")',
        'hint="docker login " + registry',
        'hint="rm %s" % folder',
        'hint="mkdir {}".format(folder)',
        "hint=\"pip install 'edgephi[cpu]'\"",
        'hint=f"pip install --upgrade {engine}"',
    ],
)
def test_the_reader_of_the_code_sees_commands(code: str) -> None:
    source = f"call({code})" if code.startswith("hint") else code
    assert written_commands(source)


def test_the_reader_of_the_code_passes_over_what_is_made() -> None:
    source = (
        '"""Runs `edgephi gc ROOT`."""\n'
        "call(hint=f\"`{edgephi_command('gc', root)}`; {shell_command('mkdir', '-p', root)}\")\n"
        'option(help="See `edgephi targets`.")\n'
        'hint = f"edgephi supports {x}, and this edgephi runs {y}"\n'
    )
    assert written_commands(source) == []
    assert [words for _, words in made_commands(source)] == [["gc", None], ["mkdir", "-p", None]]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_shell_reads_the_very_words(name: str, tmp_path: Path) -> None:
    show = "import os, sys; print(ascii([os.fsencode(word) for word in sys.argv[1:]]))"
    command = shell_command(sys.executable, "-c", show, "first", name, "last")
    assert command.isprintable()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ast.literal_eval(done.stdout) == [b"first", name.encode(errors="surrogateescape"), b"last"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in HOSTILE if name])
def test_a_path_is_no_option_and_no_other_machine(name: str, tmp_path: Path) -> None:
    command = shell_command("mkdir", "-p", Path(name))
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert shell_command("scp", Path("box:phi")) == "scp ./box:phi"


def test_a_destination_stays_what_it_is() -> None:
    assert edgephi_command("status", place("ssh://box/srv/phi")).endswith("status ssh://box/srv/phi")
    assert edgephi_command("flash", place("image:my file")).endswith("flash 'image:my file'")
    assert edgephi_command("status", place("-store")).endswith("status ./-store")


class TestTheProgram:
    """`edgephi` in a command is the one that runs: by its name where a shell finds it, else by its path."""

    CODE = "from edgephi.commands import edgephi_command; print(edgephi_command('run', 'x'))"

    def said(self, python: Path, folder: Path, path: str) -> str:
        done = subprocess.run(
            [python, "-c", self.CODE],
            capture_output=True,
            text=True,
            cwd=folder,
            env={"PATH": path, "PYTHONPATH": str(PACKAGE.parent)},
            check=True,
        )
        return done.stdout.strip()

    @pytest.fixture
    def environment(self, tmp_path: Path) -> Path:
        """An environment's folder of programs, which holds an edgephi and the Python that runs it."""
        programs = tmp_path / "my env" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        (programs.parent / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
        (programs / "edgephi").write_text("#!/bin/sh\n")
        (programs / "edgephi").chmod(0o755)
        return programs

    def test_an_environment_that_is_not_active(self, environment: Path, tmp_path: Path) -> None:
        python = environment / "python"
        assert self.said(python, tmp_path, "/usr/bin:/bin") == "'my env/bin/edgephi' run x"
        assert self.said(python, Path("/"), "/usr/bin:/bin") == f"'{environment}/edgephi' run x"
        assert self.said(python, environment, "/usr/bin:/bin") == "./edgephi run x"

    def test_an_active_one(self, environment: Path, tmp_path: Path) -> None:
        assert self.said(environment / "python", tmp_path, f"{environment}:/bin") == "edgephi run x"

    def test_another_one_before_it_in_the_path(self, environment: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        (other / "edgephi").write_text("#!/bin/sh\n")
        (other / "edgephi").chmod(0o755)
        said = self.said(environment / "python", tmp_path, f"{other}:{environment}")
        assert said == "'my env/bin/edgephi' run x"

    def test_none_is_installed(self, environment: Path, tmp_path: Path) -> None:
        (environment / "edgephi").unlink()
        assert self.said(environment / "python", tmp_path, "/bin") == "edgephi run x"

    def test_the_module_of_a_python(self, environment: Path) -> None:
        done = subprocess.run(
            [environment / "python", "-m", "edgephi.cli", "build", "demo", "--target", "cpu"],
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": "/bin", "PYTHONPATH": ":".join([str(PACKAGE.parent), *sys.path[1:]])},
            check=False,
        )
        assert f"see `'{environment}/python' -m edgephi.cli build --help`" in done.stderr

    def test_the_command_of_a_store(self, environment: Path, tmp_path: Path) -> None:
        """Its environments come and go with their bundles; the command in `envs` stays."""
        folder = tmp_path / "envs"
        folder.mkdir()
        shutil.copy(environment / "edgephi", folder / "edgephi")
        environment.parent.rename(folder / "0123")
        done = subprocess.run(
            [folder / "0123" / "bin" / "python", "-m", "edgephi.cli", "build", "demo", "--target", "cpu"],
            capture_output=True,
            text=True,
            cwd="/",
            env={"PATH": "/bin", "PYTHONPATH": ":".join([str(PACKAGE.parent), *sys.path[1:]])},
            check=False,
        )
        assert f"see `{folder}/edgephi build --help`" in done.stderr


class TestInstalling:
    """More of edgephi comes from where it came from itself, with the pip of the Python that runs."""

    CODE = "from edgephi.commands import install_command; print(install_command('build', 'cpu'))"

    def said(self, site: Path, folder: Path, noted: object) -> list[str]:
        """The words of the command where pip has written down `noted`; it is called as `python -m pip`."""
        information = site / "edgephi-9.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: edgephi\nVersion: 9\n")
        if noted is not None:
            (information / "direct_url.json").write_text(json.dumps(noted))
        (site / "edgephi").symlink_to(PACKAGE)
        done = subprocess.run(
            [sys.executable, "-S", "-c", self.CODE],
            capture_output=True,
            text=True,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site)},
            check=True,
        )
        *_, install = done.stdout.partition(" install ")
        return shlex.split(install)

    @pytest.mark.parametrize(
        ("noted", "words"),
        [
            ({"url": "HERE/my%20clone", "dir_info": {}}, ["./my clone[build,cpu]"]),
            ({"url": "HERE", "dir_info": {}}, [".[build,cpu]"]),
            ({"url": "HERE/my%20clone", "dir_info": {"editable": True}}, ["-e", "./my clone[build,cpu]"]),
            ({"url": "HERE/edgephi-9-py3-none-any.whl", "archive_info": {}}, None),
            (
                {"url": "https://git.example/e.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
                ["edgephi[build,cpu] @ git+https://git.example/e.git@abc"],
            ),
            (
                {"url": "https://files.example/edgephi-9-py3-none-any.whl", "archive_info": {}},
                ["edgephi[build,cpu] @ https://files.example/edgephi-9-py3-none-any.whl"],
            ),
            ({"url": "HERE/gone", "dir_info": {}}, ["PATH/TO/edgephi[build,cpu]"]),
            (None, ["PATH/TO/edgephi[build,cpu]"]),
            ([], ["PATH/TO/edgephi[build,cpu]"]),
        ],
    )
    def test_it_is_taken_from_where_it_came(
        self, tmp_path: Path, noted: dict[str, object] | None, words: list[str] | None
    ) -> None:
        folder = tmp_path / "it's here"
        (folder / "my clone").mkdir(parents=True)
        (folder / "edgephi-9-py3-none-any.whl").touch()
        if noted and "url" in noted:
            noted = {**noted, "url": str(noted["url"]).replace("HERE", folder.as_uri())}
        words = words or ["./edgephi-9-py3-none-any.whl[build,cpu]"]
        assert self.said(tmp_path / "site", folder, noted) == words

    def test_an_environment_that_is_not_active(self, tmp_path: Path) -> None:
        programs = tmp_path / "env" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(sys.executable)
        (programs.parent / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")

        def said(path: str) -> str:
            done = subprocess.run(
                [programs / "python", "-c", self.CODE],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env={"PATH": path, "PYTHONPATH": str(PACKAGE.parent)},
                check=True,
            )
            return done.stdout.partition(" install ")[0]

        assert said("/usr/bin:/bin") == "env/bin/python -m pip"
        (programs / "pip").write_text("#!/bin/sh\n")
        (programs / "pip").chmod(0o755)
        assert said("/usr/bin:/bin") == "env/bin/pip"
        assert said(f"{programs}:/bin") == "pip"

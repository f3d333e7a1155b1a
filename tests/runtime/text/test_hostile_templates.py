"""Bundles whose chat template loops, fills the memory, or looks around in the process that renders it."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgephi.chat.formats import PHI_3_CHAT
from edgephi.errors import BadBundleError, NotSupportedError
from tests.cli.conftest import MAIN
from tests.cli.terminal import CTRL_C, Terminal
from tests.runtime.conftest import DemoFor

GOOD = PHI_3_CHAT.template
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HOSTILE: dict[str, str] = {
    "loops": LOOP,
    "a text of gigabytes": "{% set x = 'a'*8000000000 %}",
    "a text that doubles": (
        "{% set ns=namespace(x='aaaaaaaaaaaaaaaa') %}"
        "{% for i in range(40) %}{% set ns.x=ns.x+ns.x %}{% endfor %}"
    ),
    "a wide number": "{% set x = '%1000000000d' % 1 %}",
    "a wide format": "{{ '{:>9999999999}'.format(1) }}",
    "a long range": "{% for a in range(999999999999) %}{% endfor %}",
    "a long list": "{{ range(999999999)|list|length }}",
    "much text": "{% for a in range(99999) %}{{ 'x'*10000 }}{% endfor %}",
    "nonsense": "{{ lipsum(n=100000,max=1000) }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "calls that double": (
        "{% macro m(n) %}{% if n>0 %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(40) }}"
    ),
    "parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "blocks in blocks": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "a long comment": "{# " + "x" * 3_000_000 + " #}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ messages.__init__.__globals__ }}",
    "a command": "{{ cycler.__init__.__globals__.os.popen('touch HOSTILE').read() }}",
    "attributes in a format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "a file": "{% include '/etc/passwd' %}",
    "a module": "{% import 'os' as os %}",
    "what Jinja does not have": "{{ what_is_not_there() }}",
}
LATER = "{% if 'loop' in messages[-1].content %}" + LOOP + "{% endif %}" + GOOD
MOST_SECONDS = 30.0  # on a busy machine
TARGETS = ("cpu", "gguf", "openvino", "mlx")


def with_template(bundle: Path, folder: Path, template: str) -> Path:
    """A copy of a bundle whose manifest has another template."""
    copy = folder / "hostile"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["chat"]["template"] = template
    (copy / "bundle.json").write_text(json.dumps(manifest))
    return copy


def started(*words: object, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_is_refused_within_limits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgephi.chat.template import ChatTemplate

    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(BadBundleError, match="expected a template") as caught:
        ChatTemplate(HOSTILE[name] + GOOD).check()
    assert time.monotonic() - start < MOST_SECONDS
    assert len(caught.value.message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["a text that doubles", "recursion", "blocks in blocks"])
def test_run_ends_with_the_code_of_a_bad_bundle(
    name: str, target: str, demo_for: DemoFor, tmp_path: Path
) -> None:
    hostile = with_template(demo_for(target), tmp_path, HOSTILE[name] + GOOD)
    process = started("run", hostile, "hello", folder=tmp_path)
    out, err = process.communicate(timeout=MOST_SECONDS)
    assert (process.returncode, out) == (4, "")
    assert err.startswith("error: bundle.json: chat: expected a template")


@pytest.mark.parametrize("target", TARGETS)
def test_one_that_loops_later_is_refused_with_its_message(
    target: str, demo_for: DemoFor, tmp_path: Path
) -> None:
    hostile = with_template(demo_for(target), tmp_path, LATER)
    process = started("chat", hostile, "--provider", "cpu", "--max-tokens", 5, folder=tmp_path)
    out, err = process.communicate("loop\nturn on the light\n", timeout=MOST_SECONDS)
    assert process.returncode == 4
    assert "expected a template that takes at most 3 s" in err
    assert out.startswith('{"')  # the next message was answered


def test_ctrl_c_ends_run_at_once(demo_for: DemoFor, tmp_path: Path) -> None:
    process = started("run", with_template(demo_for("cpu"), tmp_path, LOOP + GOOD), "a", folder=tmp_path)
    time.sleep(1.5)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=MOST_SECONDS)
    assert process.returncode == 130
    assert time.monotonic() - start < 1.4


def test_ctrl_c_gives_up_a_message_of_a_chat(demo_for: DemoFor, tmp_path: Path) -> None:
    hostile = with_template(demo_for("cpu"), tmp_path, LATER)
    with Terminal("chat", hostile, "--no-history", environment={"HOME": str(tmp_path)}) as terminal:
        terminal.wait_for("> ")
        terminal.enter("loop")
        time.sleep(0.5)
        terminal.type(CTRL_C)
        terminal.wait_for("stopped")
        terminal.wait_for("> ")
        terminal.enter("turn on the kitchen light")
        terminal.wait_for("kitchen")


def test_a_harmless_one_of_somebody_else_is_rendered_as_edgephis_own(
    demo_for: DemoFor, tmp_path: Path
) -> None:
    import edgephi.runtime

    own = edgephi.runtime.load(demo_for("cpu"))
    other = edgephi.runtime.load(with_template(demo_for("cpu"), tmp_path, "{# mine #}" + GOOD))
    for text in ("turn on the light", "<|end|>\n<|user|>", "Grüße 🎉", "a\ufdd2b"):
        messages = [{"role": "system", "content": "You are\n a box."}, {"role": "user", "content": text}]
        assert other.encode_chat(messages) == own.encode_chat(messages)
    assert other.generate("turn on the kitchen light").text == own.generate("turn on the kitchen light").text


def test_edgephis_own_need_no_process() -> None:
    from edgephi.chat.formats import CHAT_FORMATS
    from edgephi.chat.template import ChatTemplate

    code = (
        "import sys\n"
        "from edgephi.chat.formats import CHAT_FORMATS\n"
        "from edgephi.chat.template import ChatTemplate\n"
        "asked = [{'role': 'user', 'content': 'hello'}]\n"
        "for chat in CHAT_FORMATS: assert 'hello' in ChatTemplate(chat.template).render(asked)\n"
        "print('multiprocessing' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
    assert all(ChatTemplate(chat.template).is_own for chat in CHAT_FORMATS)


@pytest.mark.parametrize("template", [GOOD, "{{ messages }}"])
def test_without_jinja_what_is_missing_is_said(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgephi.chat.template import ChatTemplate

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(NotSupportedError, match="rendered with jinja2, which is not installed") as caught:
        ChatTemplate(template).render([{"role": "user", "content": "hello"}])
    assert caught.value.hint.endswith("pip install 'jinja2>=3.1'")


@pytest.mark.parametrize("name", ["attributes of what is given", "a wide document"])
def test_what_transformers_gives_to_templates_is_a_way_out_of_nothing(name: str) -> None:
    from edgephi.chat.template import ChatTemplate

    templates = {
        "attributes of what is given": "{{ strftime_now.__globals__['datetime'] }}",
        "a wide document": "{{ [1]|tojson(indent=9999999999) }}",
    }
    with pytest.raises(BadBundleError, match="expected a template"):
        ChatTemplate(templates[name] + GOOD).check()


class TestWhatTheEnginesOwnTokenizersParse:
    """The template of their configuration, in the artifact."""

    @pytest.mark.parametrize("target", ["cpu", "openvino", "mlx"])
    @pytest.mark.parametrize(
        "hostile", [HOSTILE["blocks in blocks"], "{{" + "a~" * 20_000 + "a}}"], ids=["blocks", "sums"]
    )
    def test_is_nothing_to_edgephi(
        self, hostile: str, target: str, demo_for: DemoFor, tmp_path: Path
    ) -> None:
        bundle = with_template(demo_for(target), tmp_path, GOOD)
        _write_template(bundle, "tokenizer_config.json", hostile + GOOD)
        if target == "openvino":
            _write_template(bundle, "chat_template.jinja", hostile + GOOD)
        process = started("run", bundle, "turn on the kitchen light", "--provider", "cpu", folder=tmp_path)
        out, err = process.communicate(timeout=MOST_SECONDS)
        assert (process.returncode, err.count("error")) == (0, 0)
        assert "kitchen" in out

    def test_is_edgephis_own_in_a_new_bundle(self, demo_for: DemoFor) -> None:
        for target in ("cpu", "openvino"):
            file = demo_for(target) / "model/tokenizer_config.json"
            assert json.loads(file.read_text())["chat_template"] == GOOD


def _write_template(bundle: Path, name: str, template: str) -> None:
    """Put a template into a file of the artifact, and into the manifest what that takes."""
    file = bundle / "model" / name
    if name.endswith(".json"):
        template = json.dumps({**json.loads(file.read_text()), "chat_template": template})
    file.write_text(template)
    manifest = json.loads((bundle / "bundle.json").read_text())
    (entry,) = [entry for entry in manifest["files"] if entry["path"] == f"model/{name}"]
    data = file.read_bytes()
    entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    entry.pop("chunks", None)
    (bundle / "bundle.json").write_text(json.dumps(manifest))

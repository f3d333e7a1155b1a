"""`edgephi run --image` and `/image` of `edgephi chat`, with a tiny model that sees."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Edgephi, is_one_error
from tests.cli.terminal import Terminal
from tests.runtime.images.drawn import drawn, saved


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with pictures, and with what is none."""
    (tmp_path / "a.png").write_bytes(saved(drawn(300, 200), "PNG"))
    (tmp_path / "b.jpg").write_bytes(saved(drawn(90, 260, seed=1), "JPEG"))
    moving = {"save_all": True, "append_images": [drawn(90, 80, seed=2)]}
    (tmp_path / "c.gif").write_bytes(saved(drawn(90, 80), "GIF", **moving))
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:-500])
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


def test_images_are_named_and_the_answer_is_all_that_is_printed(
    edgephi: Edgephi, seeing_bundle: Path, pictures: Path
) -> None:
    images = ["--image", "a.png", "--image", "c.gif"]
    done = edgephi("run", seeing_bundle, "What is it?", *images, "--max-tokens", 4, cwd=pictures)
    assert done.returncode == 0
    first, second, engine = done.stderr.splitlines()
    assert first == "a.png: 300 x 200, 27 tokens"
    assert second == "c.gif: 90 x 80, 27 tokens; animated, its first frame is taken"
    assert engine.startswith("onnxruntime-genai")


def test_the_document_tells_of_images(edgephi: Edgephi, seeing_bundle: Path, pictures: Path) -> None:
    def document(*options: object) -> dict[str, object]:
        done = edgephi("run", seeing_bundle, "What?", *options, "--max-tokens", 2, "--json", cwd=pictures)
        found: dict[str, object] = json.loads(done.stdout)
        return found

    found, small = (document("--image", "a.png", *crops) for crops in ((), ("--crops", 1)))
    assert found["images"] == [{"file": "a.png", "width": 300, "height": 200, "tokens": 27}]
    assert small["images"] == [{"file": "a.png", "width": 300, "height": 200, "tokens": 13}]
    assert found["timings"]["image_seconds"] > 0  # type: ignore[index]
    assert "images" not in document()


def test_beams_see_images_too(edgephi: Edgephi, seeing_bundle: Path, pictures: Path) -> None:
    options = ["--image", "a.png", "--beams", 2, "--max-tokens", 3, "--system", "Look.", "--json"]
    found = json.loads(edgephi("run", seeing_bundle, "What?", *options, cwd=pictures).stdout)
    assert len(found["beams"]) == 2
    assert found["images"][0]["tokens"] == 27


@pytest.mark.parametrize("name", ["missing.png", "text.png", "."])
def test_what_is_no_image_is_refused_before_anything_is_loaded(
    edgephi: Edgephi, seeing_bundle: Path, pictures: Path, name: str
) -> None:
    before = "import edgephi.runtime\ndef load(*_, **__): raise AssertionError\nedgephi.runtime.load = load"
    done = edgephi("run", seeing_bundle, "What?", "--image", name, before=before, cwd=pictures)
    assert is_one_error(done, 4)
    assert name in done.stderr


def test_a_broken_image_is_one_error(edgephi: Edgephi, seeing_bundle: Path, pictures: Path) -> None:
    done = edgephi("run", seeing_bundle, "What?", "--image", "cut.png", cwd=pictures)
    assert done.returncode == 4
    assert "error: cut.png: expected a whole image, found one that is cut off or broken" in done.stderr


def test_images_that_leave_no_room_are_counted(edgephi: Edgephi, seeing_bundle: Path, pictures: Path) -> None:
    done = edgephi("run", seeing_bundle, "What?", "--image", "a.png", "--context", 32, cwd=pictures)
    assert done.returncode == 3
    assert "27 of them for its image, the context is 32 tokens" in done.stderr
    assert "crops" in done.stderr


def test_a_model_that_reads_text_alone_is_named(edgephi: Edgephi, demo_bundle: Path, pictures: Path) -> None:
    done = edgephi("run", demo_bundle, "What?", "--image", "a.png", cwd=pictures)
    assert is_one_error(done, 3)


def test_a_chat_shows_images_with_the_next_message(
    edgephi: Edgephi, seeing_bundle: Path, pictures: Path
) -> None:
    lines = [
        "/image a.png",
        "/image b.jpg",
        "What?",
        "And?",
        "/stats",
        "/retry",
        "/image text.png",
        "/image -",
    ]
    done = edgephi("chat", seeing_bundle, "--max-tokens", 4, cwd=pictures, input="\n".join(lines))
    assert done.returncode == 4  # of the one that is no picture
    assert "a.png: 300 x 200, 27 tokens\nb.jpg: 90 x 260, " in done.stderr
    assert " of images" in done.stderr.replace("\n" + " " * 15, " ")
    assert "error: text.png: expected a JPEG" in done.stderr
    assert done.stderr.endswith("no image for the next message\n")


def test_a_chat_is_saved_with_its_images_and_goes_on_from_there(
    edgephi: Edgephi, seeing_bundle: Path, pictures: Path
) -> None:
    lines = ["/image a.png", "What?", "/save chat.json", "/save chat.md", "And?"]
    first = edgephi("chat", seeing_bundle, "--max-tokens", 4, cwd=pictures, input="\n".join(lines))
    messages = json.loads((pictures / "chat.json").read_text())["messages"]
    image, text = messages[0]["content"]
    data = base64.b64encode((pictures / "a.png").read_bytes()).decode()
    assert image == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    assert text == {"type": "text", "text": "What?"}
    assert "[a.png]\n\nWhat?" in (pictures / "chat.md").read_text()
    (pictures / "a.png").unlink()
    lines = ["/load chat.json", "And?", "/stats"]
    again = edgephi("chat", seeing_bundle, "--max-tokens", 4, cwd=pictures, input="\n".join(lines))
    assert first.returncode == again.returncode == 0
    assert "27 of images" in again.stderr.replace("\n" + " " * 15, " ")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image", "image": "a.png"},
        {"type": "image", "image": ["a.png"]},
        {"type": "video"},
    ],
    ids=str,
)
def test_a_saved_chat_that_names_a_file_is_refused(
    edgephi: Edgephi, seeing_bundle: Path, pictures: Path, part: dict[str, Any]
) -> None:
    messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "No."}]
    (pictures / "chat.json").write_text(json.dumps(messages))
    done = edgephi("chat", seeing_bundle, cwd=pictures, input="/load chat.json\nWhat?")
    assert done.returncode == 4
    assert "expected texts and images as data:image/" in done.stderr
    assert "a.png" not in done.stderr


def test_on_a_terminal_too(seeing_bundle: Path, pictures: Path) -> None:
    environment = {"XDG_STATE_HOME": str(pictures)}
    options = ["--no-history", "--max-tokens", 3]
    with Terminal("chat", seeing_bundle, *options, environment=environment) as terminal:
        terminal.wait_for("0/4096> ")
        terminal.enter(f"/image {pictures}/a.png")
        assert "300 x 200, 27 tokens" in terminal.wait_for("for the next message")
        terminal.enter("What?")
        terminal.wait_for("/4096> ")
        terminal.enter("/quit")


@pytest.mark.parametrize("command", ["/image", "/load", "/save"])
def test_an_address_is_no_file_of_a_chat(
    edgephi: Edgephi, seeing_bundle: Path, pictures: Path, command: str
) -> None:
    done = edgephi("chat", seeing_bundle, cwd=pictures, input=f"{command} http://localhost/a.png")
    assert done.returncode == 2
    assert "error: expected a path on this machine, found 'http://localhost/a.png'" in done.stderr


@pytest.mark.parametrize("dropped", ["'{}/my a.png'", '"{}/my a.png"', "{}/my\\ a.png", "{}/my a.png"])
def test_a_file_that_is_dropped_on_the_terminal(
    edgephi: Edgephi, seeing_bundle: Path, pictures: Path, dropped: str
) -> None:
    (pictures / "a.png").rename(pictures / "my a.png")
    (pictures / "it's").write_bytes((pictures / "my a.png").read_bytes())
    lines = [f"/image {dropped.format(pictures)}", "/image it's", "/image -"]
    done = edgephi("chat", seeing_bundle, cwd=pictures, input="\n".join(lines))
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("300 x 200, 27 tokens") == 3

"""`edgephi bench`, on the demo bundle."""

import dataclasses
import html.parser
import json
import platform
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgephi.bundle.manifest import read_manifest
from edgephi.cli.pages.bench_page import bench_page
from edgephi.machine.host import describe_host
from edgephi.runtime.proof.bench import BundleSummary, Range, SpeedSummary
from tests.cli.conftest import Edgephi, is_one_error
from tests.runtime.images.drawn import drawn, saved

QUICK = ("--prompt-tokens", "8,24", "--generate", 6, "--runs", 2)


@pytest.fixture(scope="module")
def second_bundle(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle in another folder."""
    folder = tmp_path_factory.mktemp("bench") / "another"
    shutil.copytree(demo_bundle, folder)
    return folder


def test_json_has_the_machine_and_every_number(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("bench", demo_bundle, *QUICK, "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["runs"] == 2
    assert document["machine"]["read_bytes_per_second"] > 1e8
    (bundle,) = document["bundles"]
    manifest = read_manifest(demo_bundle)
    assert (bundle["name"], bundle["engine"], bundle["provider"]) == (
        "demo-cpu",
        manifest.target.engine,
        "cpu",
    )
    engines_files = [entry for entry in manifest.files if entry.path.startswith("model/")]
    assert bundle["artifact_bytes"] == sum(entry.size for entry in engines_files)
    assert bundle["context"] == 30
    assert [prompt["prompt_tokens"] for prompt in bundle["prompts"]] == [8, 24]
    for prompt in bundle["prompts"]:
        speed = prompt["decode_tokens_per_second"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]


def test_agrees_with_what_run_says(edgephi: Edgephi, demo_bundle: Path) -> None:
    benched = json.loads(edgephi("bench", demo_bundle, *QUICK, "--json").stdout)["bundles"][0]
    answered = json.loads(edgephi("run", demo_bundle, "lock the front door", "--json").stdout)
    ratio = (
        benched["prompts"][0]["decode_tokens_per_second"]["median"]
        / answered["timings"]["decode_tokens_per_second"]
    )
    assert 1 / 20 < ratio < 20


def test_the_text_fits_into_80_columns(edgephi: Edgephi, demo_bundle: Path, second_bundle: Path) -> None:
    done = edgephi("bench", demo_bundle, second_bundle, *QUICK)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "GB/s" in lines[0]
    assert f"{demo_bundle.name}  " in lines[1]  # two bundles of one name are told apart by their folders
    assert "another" in lines[2]
    assert sum(line.startswith("prompt of ") for line in lines) == 2
    assert "run 2 of 2: demo-cpu" in done.stderr


def test_compare_measures_in_the_first_bundle(
    edgephi: Edgephi, demo_bundle: Path, second_bundle: Path
) -> None:
    done = edgephi("bench", demo_bundle, second_bundle, *QUICK, "--compare")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines() if re.search(r"\d\.\d\dx", line)]
    assert [row[0] for row in rows] == [demo_bundle.name, "another"] * 2
    assert [row.count("1.00x") for row in rows if row[0] == demo_bundle.name] == [2, 2]
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator is for x86-64")
def test_an_emulated_speed_is_no_devices(
    edgephi: Edgephi, demo_bundle: Path, qnn_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime_qnn")
    few = ("--prompt-tokens", 8, "--generate", 3, "--runs", 1, "--compare", "--html", tmp_path / "page.html")
    done = edgephi("bench", demo_bundle, qnn_bundle, *few)
    assert done.returncode == 0
    assert "on htp-emulation" in done.stdout
    row = next(line for line in done.stdout.splitlines()[::-1] if line.startswith("demo-qnn "))
    assert row.split()[4:] == ["-", row.split()[5], "-", "-", "-"]  # compared with nothing, and no limit
    assert done.stdout.count("the speed is not") == 1
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    assert "the speed is not" in Page((tmp_path / "page.html").read_text()).words


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_stands_alone(
    edgephi: Edgephi, demo_bundle: Path, second_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bench.html"
    done = edgephi("bench", demo_bundle, second_bundle, *QUICK, "--json", "--html", file)
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    # Nothing is fetched: no address, no file, no script.
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img|src=", text)
    assert "prefers-color-scheme: dark" in text
    assert ("name", "viewport") in page.attributes
    drawings = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    titles = [drawing.findtext("title") for drawing in drawings]
    assert titles == ["Decode", "Prefill", "First token", "Memory", "Load"]
    assert all(drawing.get("role") == "img" for drawing in drawings)
    document = json.loads(done.stdout)
    for number, drawing in enumerate(drawings[:2]):
        key = ("decode_tokens_per_second", "prefill_tokens_per_second")[number]
        medians = [
            bundle["prompts"][length][key]["median"] for length in (0, 1) for bundle in document["bundles"]
        ]
        widths = [float(bar.get("width", "")) for bar in drawing.iter("rect")]
        assert len(widths) == 4
        assert widths == pytest.approx(
            [median * widths[0] / medians[0] for median in medians], rel=0.05, abs=1
        )
        described = drawing.findtext("desc") or ""
        assert all(f"{median:.0f}" in described for median in medians if median >= 100)
    assert page.tags.count("table") == 2
    assert document["machine"]["processor"]["model"] in page.words


def test_names_are_text_on_the_page() -> None:
    host = dataclasses.replace(describe_host(), board="<script>alert(1)</script>")
    one = Range(1.0, 1.0, 1.0)
    prompt = SpeedSummary(8, 4, one, one, one, 1, None, None)
    facts = ("<b>", "<b>", "<b>", "<b>", "<b>", "<b>", "<b>")
    summary = BundleSummary(*facts, 4.0, 1, 12, one, 1, 5_000_000_000, (prompt,))
    text = bench_page(host, 1e9, ['" onload="x'], [summary], runs=1, moment="today")
    assert not re.search(r'<script|<b>|" onload', text)
    assert "&lt;script&gt;alert(1)" in text
    assert "GPU memory" in text
    assert "5.00 GB" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt-tokens", "0"],
        ["--prompt-tokens", "8,,9"],
        ["--prompt-tokens", "many"],
        ["--generate", "1"],
        ["--runs", "0"],
        ["--compare"],
        ["--html", "none/page.html"],
    ],
)
def test_usage_errors(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path, arguments: list[str]) -> None:
    assert is_one_error(edgephi("bench", demo_bundle, *arguments, cwd=tmp_path), 2)


def test_what_cannot_be_measured(edgephi: Edgephi, demo_bundle: Path, tmp_path: Path) -> None:
    assert is_one_error(edgephi("bench", tmp_path), 4)
    assert is_one_error(edgephi("bench", demo_bundle, "--prompt-tokens", 5000), 3)
    assert is_one_error(edgephi("bench", demo_bundle, "--context", 16, "--prompt-tokens", 8), 3)


def test_a_provider_that_the_engine_does_not_have(edgephi: Edgephi, demo_bundle: Path) -> None:
    done = edgephi("bench", demo_bundle, *QUICK, "--provider", "abacus")
    assert done.returncode == 3
    assert "found 'abacus'" in done.stderr
    assert done.stdout == ""


class TestImage:
    @pytest.fixture
    def picture(self, tmp_path: Path) -> Path:
        (tmp_path / "a.png").write_bytes(saved(drawn(300, 200), "PNG"))
        return tmp_path / "a.png"

    def test_is_measured_apart(self, edgephi: Edgephi, seeing_bundle: Path, picture: Path) -> None:
        done = edgephi("bench", seeing_bundle, *QUICK, "--image", picture)
        assert done.returncode == 0
        assert "image of 300 x 200: 27 tokens, 5 tiles" in done.stdout
        assert all(len(line) <= 80 for line in done.stdout.splitlines())

    def test_json_has_its_numbers(self, edgephi: Edgephi, seeing_bundle: Path, picture: Path) -> None:
        done = edgephi("bench", seeing_bundle, *QUICK, "--image", picture, "--crops", 1, "--json")
        (bundle,) = json.loads(done.stdout)["bundles"]
        image = bundle["image"]
        assert (image["tokens"], image["tiles"], image["width"], image["height"]) == (13, 2, 300, 200)
        assert image["prompt_tokens"] > 13
        parts = image["read_seconds"]["low"] + image["encode_seconds"]["low"]
        assert 0 < parts < image["first_token_seconds"]["high"]

    def test_a_model_that_reads_text_alone_is_refused(
        self, edgephi: Edgephi, demo_bundle: Path, picture: Path
    ) -> None:
        assert is_one_error(edgephi("bench", demo_bundle, *QUICK, "--image", picture), 3)

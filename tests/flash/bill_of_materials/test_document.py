"""What a bill of materials says of a bundle, by CycloneDX's own schema and as another program reads it."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edgephi.bundle.certificate import Certificate, ImageProof
from edgephi.bundle.chunks import FileEntry
from edgephi.bundle.manifest import Manifest
from edgephi.errors import BadBundleError
from edgephi.flash.bill_of_materials.document import bill_of_materials
from edgephi.flash.bill_of_materials.wheels import wheel_component
from tests.bundle.tiny import tiny_manifest, write_tiny_artifact, write_tiny_bundle
from tests.flash.bill_of_materials.bundles import COMMIT, FOLDER, PIP, WHEELS, write_full_bundle

Bill = dict[str, Any]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_full_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def read(bundle: Path) -> Bill:
    """The bill of a bundle, which is valid by the strict schema of 1.6."""
    data = bill_of_materials(bundle)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    bill: Bill = json.loads(data)
    return bill


def whole(bill: Bill) -> Bill:
    component: Bill = bill["metadata"]["component"]
    return component


def part(bill: Bill, reference: str) -> Bill:
    """The component with that reference."""
    (found,) = (each for each in bill["components"] if each["bom-ref"] == reference)
    return dict(found)


def facts(component: Bill) -> dict[str, list[str]]:
    """Its properties of ours, by their names."""
    found: dict[str, list[str]] = {}
    for each in component.get("properties", []):
        found.setdefault(each["name"].removeprefix("edgephi:"), []).append(each["value"])
    return found


def sha256(path: Path) -> list[Bill]:
    return [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]


def test_it_names_the_bundle_by_the_digest_of_its_manifest(bundle: Path) -> None:
    bill = read(bundle)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert whole(bill)["type"] == "machine-learning-model"
    assert (whole(bill)["name"], whole(bill)["version"]) == ("tiny-cpu", "3")
    assert whole(bill)["hashes"] == sha256(bundle / "bundle.json")
    assert bill["metadata"]["timestamp"] == "2026-01-01T00:00:00+00:00"  # when the bundle was sealed
    (tool,) = bill["metadata"]["tools"]["components"]
    assert tool["name"] == "edgephi"


def test_the_same_bundle_makes_the_same_bytes_anywhere(bundle: Path, tmp_path: Path) -> None:
    """In another folder, process, time zone and language, with another seed of the hashes of sets."""
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(bundle, copy)
    program = (
        "import pathlib, sys; from edgephi.flash.bill_of_materials.document import bill_of_materials\n"
        "sys.stdout.buffer.write(bill_of_materials(pathlib.Path(sys.argv[1])))"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo", "LANG": "C", "PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(
            [sys.executable, "-c", program, copy], env=environment, capture_output=True, check=True
        )
        assert done.stdout == bill_of_materials(bundle)


def test_another_bundle_has_another_serial_number(bundle: Path, tmp_path: Path) -> None:
    write_full_bundle(tmp_path / "next", security_floor=1)
    assert read(bundle)["serialNumber"] != read(tmp_path / "next")["serialNumber"]
    assert read(bundle)["serialNumber"].startswith("urn:uuid:")


def test_every_file_is_a_part_with_its_hash(bundle: Path) -> None:
    bill = read(bundle)
    paths = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {each["bom-ref"] for each in bill["components"]} == paths - {"bundle.json"}
    for path in paths - {"bundle.json"}:
        assert part(bill, path)["hashes"] == sha256(bundle / path)
    (depends,) = (each for each in bill["dependencies"] if each["ref"] == whole(bill)["bom-ref"])
    assert set(depends["dependsOn"]) == paths - {"bundle.json"}


def test_a_model_of_the_hub_is_named_by_its_commit(bundle: Path) -> None:
    model, adapter = whole(read(bundle))["pedigree"]["ancestors"]
    if model["name"] == "acme/kitchen":
        model, adapter = adapter, model
    assert model["purl"] == f"pkg:huggingface/microsoft/Phi-3.5-mini-instruct@{COMMIT}"
    assert {each["name"]: each["hashes"][0]["content"] for each in model["components"]} == {
        "config.json": "1" * 64,
        "model.safetensors": "2" * 64,
    }
    assert adapter["purl"] == f"pkg:huggingface/acme/kitchen@{'b' * 40}"
    assert [each["hashes"][0]["content"] for each in adapter["components"]] == ["3" * 64]
    assert facts(adapter) == {"adapter:scale": ["0.5"]}


def test_a_model_of_a_folder_has_no_package_url(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path / "bundle")
    (model,) = whole(read(tmp_path / "bundle"))["pedigree"]["ancestors"]
    assert (model["name"], model["version"]) == ("tiny", "0123456789ab")
    assert "purl" not in model


def test_the_card_says_how_the_weights_were_quantised(bundle: Path) -> None:
    card = whole(read(bundle))["modelCard"]
    assert card["modelParameters"]["modelArchitecture"] == "phi-3-mini-4k"
    calibration, evaluation = card["modelParameters"]["datasets"]
    assert (calibration["name"], calibration["classification"]) == ("edgephi-calibration", "calibration")
    assert facts(calibration["contents"])["text:sha256"] == ["c" * 64]
    assert (evaluation["name"], evaluation["classification"]) == ("edgephi-eval (general)", "evaluation")
    quantisation = facts(card)
    assert quantisation["quantisation:bits"] == ["4"]
    assert quantisation["quantisation:bits_per_weight"] == ["4.53"]
    assert quantisation["quantisation:symmetric"] == ["true"]
    assert quantisation["quantisation:kept"] == ["model.layers.0.mlp.down_proj", "lm_head"]


def metrics(bill: Bill) -> dict[tuple[str, str], str]:
    """The numbers of the card, by name and the part of the text that they are about."""
    analysis = whole(bill)["modelCard"]["quantitativeAnalysis"]
    listed = [((each["type"], each["slice"]), each["value"]) for each in analysis["performanceMetrics"]]
    assert len(dict(listed)) == len(listed)
    return dict(listed)


def test_the_certificate_is_the_measured_quality(bundle: Path) -> None:
    """Every number under the name that it has in the certificate of `bundle.json`."""
    certificate = json.loads((bundle / "bundle.json").read_bytes())["certificate"]
    found = metrics(read(bundle))
    text = "edgephi-eval (general): 2880 tokens of 20 passages"
    for name in ("export_error", "quantisation_loss", "end_to_end", "plain_rounding"):
        for key, number in certificate[name].items():
            assert float(found.pop((f"{name}.{key}", text))) == number
    for kind in ("domain", "language"):
        for name, numbers in certificate[f"{kind}s"].items():
            about = f"{kind} {name}: {numbers.pop('tokens')} tokens"
            for key, number in numbers.items():
                assert float(found.pop((f"{kind}s.{key}", about))) == number
    assert found == {}


def test_what_was_measured_about_images_is_there_too(tmp_path: Path) -> None:
    plain = tiny_manifest().certificate
    measured = plain.end_to_end
    assert measured is not None
    proof = ImageProof(2, ("640x200", "300x300"), 700, 90, 1e-6, 2e-4, measured, measured, measured)
    write_tiny_bundle(tmp_path / "bundle", certificate=Certificate(**{**vars(plain), "images": proof}))
    found = metrics(read(tmp_path / "bundle"))
    assert found["images.encoder_error", "2 drawn pictures of 700 tokens"] == "1e-06"
    about = "90 tokens behind 2 drawn pictures of 700 tokens"
    assert found["images.end_to_end.kl_mean", about] == "1.5e-05"


def test_what_nobody_measured_is_no_quality_but_a_limitation(tmp_path: Path) -> None:
    write_tiny_bundle(
        tmp_path / "bundle", certificate=Certificate("off"), deviation="routes to other experts"
    )
    card = whole(read(tmp_path / "bundle"))["modelCard"]
    assert "quantitativeAnalysis" not in card
    assert card["considerations"]["technicalLimitations"] == [
        "routes to other experts",
        "its quality was not measured when it was built",
    ]


def test_a_real_wheel_is_a_package_with_its_licence(bundle: Path) -> None:
    pip = part(read(bundle), f"{FOLDER}/{PIP.name}")
    version = PIP.name.split("-")[1]
    assert (pip["type"], pip["name"], pip["version"]) == ("library", "pip", version)
    assert pip["purl"] == f"pkg:pypi/pip@{version}?file_name={PIP.name}"
    assert pip["licenses"] == [{"license": {"acknowledgement": "declared", "id": "MIT"}}]


@pytest.mark.parametrize(
    ("name", "licences"),
    [
        ("edgephi", [{"license": {"acknowledgement": "declared", "id": "MIT"}}]),
        ("either", [{"acknowledgement": "declared", "expression": "MIT OR Apache-2.0"}]),
        ("own-words", [{"license": {"acknowledgement": "declared", "name": "The Words' License"}}]),
        (
            "classified",
            [
                {"license": {"acknowledgement": "declared", "name": "Apache Software License"}},
                {"license": {"acknowledgement": "declared", "name": "BSD License"}},
            ],
        ),
        ("silent", None),
    ],
)
def test_a_wheels_licence_is_what_it_declares(
    bundle: Path, name: str, licences: list[dict[str, Any]] | None
) -> None:
    (found,) = (each for each in read(bundle)["components"] if each["name"] == name)
    assert found.get("licenses") == licences


def test_edgephis_own_wheel_has_no_package_url(bundle: Path) -> None:
    """It is on no index: a scanner would look for somebody else's package."""
    assert "purl" not in part(read(bundle), f"{FOLDER}/edgephi-2.0-py3-none-any.whl")
    assert part(read(bundle), f"{FOLDER}/Own_Words-2.0-py3-none-any.whl")["purl"].startswith(
        "pkg:pypi/own-words@2.0"
    )


def test_adapters_beside_the_weights_have_cards_of_their_own(bundle: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "adapters"
    write_tiny_artifact(artifact, bundle)
    bill = read(artifact)
    assert {each["bom-ref"] for each in bill["components"]} == {
        "edgephi:base",
        "model/adapters/tea.gguf",
        "model/adapters/coffee.gguf",
    }
    assert part(bill, "edgephi:base")["hashes"] == sha256(bundle / "bundle.json")
    tea = part(bill, "model/adapters/tea.gguf")
    assert tea["type"] == "machine-learning-model"
    assert facts(tea)["adapter:id"] == ["example/tea"]
    assert tea["modelCard"]["considerations"]["technicalLimitations"]


def test_another_program_reads_it(bundle: Path, tmp_path: Path) -> None:
    """lib4sbom, which parses by itself."""
    parser_module = pytest.importorskip("lib4sbom.parser")
    (tmp_path / "bundle.cdx.json").write_bytes(bill_of_materials(bundle))
    parser = parser_module.SBOMParser()
    parser.parse_file(str(tmp_path / "bundle.cdx.json"))
    assert parser.get_type() == "cyclonedx"
    assert (parser.get_document()["name"], parser.get_document()["version"]) == ("tiny-cpu", "1.6")
    packages = {each["name"]: each for each in parser.get_packages()}
    assert {"pip", "either", "own-words"} <= packages.keys()
    assert packages["either"]["licensedeclared"] == "MIT OR Apache-2.0"
    digest = hashlib.sha256((bundle / "model/model.onnx").read_bytes()).hexdigest()
    assert packages["model/model.onnx"]["checksum"] == [["SHA256", digest]]


@pytest.mark.parametrize("data", [b"no archive", WHEELS[f"{FOLDER}/silent-2.0-py3-none-any.whl"][:40]])
def test_a_wheel_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    write_tiny_bundle(tmp_path / "bundle", {f"{FOLDER}/bad-2.0-py3-none-any.whl": data})
    with pytest.raises(BadBundleError, match="expected a wheel, found"):
        bill_of_materials(tmp_path / "bundle")


@pytest.mark.parametrize(
    "way", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_wheel_that_is_broken_anywhere_is_read_or_refused(tmp_path: Path, way: int) -> None:
    """Each of its bytes changed in turn, as a manifest may list it whoever wrote that."""
    file = tmp_path / "bad-2.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w", way) as archive:
        archive.writestr(
            "bad-2.0.dist-info/METADATA", "Name: bad\nLicense: MIT\n" + "Classifier: A :: B\n" * 9
        )
    whole = file.read_bytes()
    refused = 0
    for place in range(len(whole)):
        for change in (0x01, 0x80, 0xFF):
            data = whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :]
            file.write_bytes(data)
            try:
                wheel_component(tmp_path, FileEntry(file.name, len(data), hashlib.sha256(data).hexdigest()))
            except BadBundleError:
                refused += 1
    assert refused > (0 if way == zipfile.ZIP_STORED else len(whole))


def test_a_wheel_that_is_not_the_manifests_is_refused(bundle: Path) -> None:
    """The bill would tell of one that nobody has vouched for."""
    file = bundle / FOLDER / "either-2.0-py3-none-any.whl"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(
        BadBundleError, match=r"either-2\.0-py3-none-any\.whl: expected sha256 \w+, found \w+"
    ):
        bill_of_materials(bundle)


@pytest.mark.parametrize("name", ["plain.whl", "two-2.0.whl", "-2.0-py3-none-any.whl"])
def test_a_wheel_whose_name_says_nothing_is_refused(tmp_path: Path, name: str) -> None:
    write_tiny_bundle(tmp_path / "bundle", {f"{FOLDER}/{name}": WHEELS[f"{FOLDER}/{PIP.name}"]})
    with pytest.raises(BadBundleError, match=r"expected NAME-VERSION-TAGS\.whl"):
        bill_of_materials(tmp_path / "bundle")


@pytest.mark.parametrize("created", ["yesterday", "2026-13-01T00:00:00Z"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, created: str) -> None:
    manifest: Manifest = write_tiny_bundle(tmp_path / "bundle", created=created)
    with pytest.raises(BadBundleError, match=f"expected a time by ISO 8601, found '{manifest.created}'"):
        bill_of_materials(tmp_path / "bundle")

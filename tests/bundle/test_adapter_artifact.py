"""The artifact of adapters: a folder that is read beside that of the bundle which it was made for."""

import shutil
from pathlib import Path

import pytest

from edgephi.bundle.adapter_artifact import entries_in, is_artifact, open_bundle
from edgephi.bundle.manifest import MANIFEST_NAME, read_manifest
from edgephi.errors import BadBundleError, BadInputError, EdgephiError
from tests.bundle.tiny import ADAPTER_FILES, FILES, write_tiny_artifact, write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def artifact(bundle: Path) -> Path:
    folder = bundle.with_name("artifact")
    write_tiny_artifact(folder, bundle)
    return folder


@pytest.fixture
def whole(bundle: Path, artifact: Path) -> Path:
    """Both in one folder, as a device has them."""
    folder = shutil.copytree(bundle, bundle.with_name("whole"))
    return Path(shutil.copytree(artifact, folder, dirs_exist_ok=True))


def refusal(folder: Path, adapter: str | Path | None) -> EdgephiError:
    with pytest.raises(EdgephiError) as refused:
        open_bundle(folder, adapter)
    return refused.value


class TestOpened:
    def test_a_bundle_without_any(self, bundle: Path) -> None:
        opened = open_bundle(bundle)
        assert (opened.manifest, opened.beside, opened.adapter) == (read_manifest(bundle), bundle, "")
        assert {opened.place(entry) for entry in opened.manifest.files} == {bundle / path for path in FILES}

    def test_with_an_artifact_beside_it(self, bundle: Path, artifact: Path) -> None:
        opened = open_bundle(bundle, artifact)
        assert opened.manifest == read_manifest(artifact)
        assert (opened.folder, opened.beside, opened.adapter) == (bundle, artifact, "tea")
        places = {opened.place(entry) for entry in opened.manifest.files}
        assert places == {*(bundle / path for path in FILES), *(artifact / path for path in ADAPTER_FILES)}
        assert all(place.is_file() for place in places)

    def test_whole_with_an_adapter_of_its_own(self, whole: Path) -> None:
        assert open_bundle(whole).adapter == ""
        opened = open_bundle(whole, "coffee")
        assert (opened.beside, opened.adapter) == (whole, "coffee")
        assert all(opened.place(entry).is_file() for entry in opened.manifest.files)

    def test_whole_with_an_artifact_for_the_same_base(
        self, bundle: Path, whole: Path, tmp_path: Path
    ) -> None:
        """A device has the base with some adapters; nobody could make another artifact for these."""
        write_tiny_artifact(tmp_path / "other", bundle, sequence=7)
        opened = open_bundle(whole, tmp_path / "other")
        assert (opened.manifest.sequence, opened.folder) == (7, whole)
        assert opened.beside == tmp_path / "other"

    def test_a_name_wins_over_a_folder(
        self, whole: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifact.rename(artifact.with_name("coffee"))
        monkeypatch.chdir(artifact.parent)
        assert open_bundle(whole, "coffee").beside == whole
        assert open_bundle(whole, "./coffee").beside == Path("coffee")

    def test_the_empty_name_is_none(
        self, bundle: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(artifact)
        assert open_bundle(bundle, "").adapter == ""


class TestRefused:
    def test_an_artifact_alone(self, artifact: Path) -> None:
        for adapter in (None, "tea", artifact):
            error = refusal(artifact, adapter)
            assert isinstance(error, BadBundleError)
            assert "expected a bundle, found adapters for tiny-cpu 3 (" in error.message
            assert f"edgephi run BUNDLE --adapter {artifact}" in error.hint

    def test_another_base(self, artifact: Path, tmp_path: Path) -> None:
        write_tiny_bundle(tmp_path / "other", sequence=4)
        error = refusal(tmp_path / "other", artifact)
        assert isinstance(error, BadBundleError)
        assert f"{artifact}: made for tiny-cpu 3 (" in error.message
        assert f"found {tmp_path / 'other'}, which is " in error.message
        assert f"edgephi adapter build {tmp_path / 'other'} ADAPTER -o DIR" in error.hint

    def test_another_base_with_adapters_of_its_own(self, artifact: Path, tmp_path: Path) -> None:
        """To make it again for that one would be refused."""
        write_tiny_bundle(tmp_path / "other", sequence=4)
        write_tiny_artifact(tmp_path / "own", tmp_path / "other")
        whole = shutil.copytree(tmp_path / "own", tmp_path / "other", dirs_exist_ok=True)
        error = refusal(whole, artifact)
        assert "made for tiny-cpu 3 (" in error.message
        assert error.hint == "give the bundle that it was made for"

    def test_a_bundle_without_adapters(self, bundle: Path) -> None:
        error = refusal(bundle, bundle)
        assert isinstance(error, BadBundleError)
        assert "expected an artifact with adapters, found a bundle without any" in error.message

    def test_what_peft_saved(self, bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "peft").mkdir()
        error = refusal(bundle, tmp_path / "peft")
        assert isinstance(error, BadInputError)
        assert "expected an artifact with adapters, found no bundle.json" in error.message
        assert f"edgephi adapter build {bundle} {tmp_path / 'peft'} -o DIR" in error.hint

    @pytest.mark.parametrize("asked", ["milk", "./none", "no\nsuch"])
    def test_no_such_name_and_no_such_folder(self, bundle: Path, whole: Path, asked: str) -> None:
        assert "which has none; found" in refusal(bundle, asked).message
        assert "which has tea, coffee; found" in refusal(whole, asked).message
        assert isinstance(refusal(whole, asked), BadInputError)

    @pytest.mark.parametrize("missing", ["model/model.onnx", "model/adapters/tea.gguf"])
    def test_a_missing_file_of_either(self, bundle: Path, artifact: Path, missing: str) -> None:
        (bundle if missing in FILES else artifact).joinpath(missing).unlink()
        assert f"{missing}: expected a file of" in refusal(bundle, artifact).message

    def test_a_file_that_is_not_the_artifacts(self, bundle: Path, artifact: Path) -> None:
        (artifact / "model/adapters/milk.gguf").touch()
        assert "expected only the files of the manifest" in refusal(bundle, artifact).message

    def test_a_file_of_another_size(self, bundle: Path, artifact: Path) -> None:
        (artifact / "model/adapters/coffee.gguf").write_bytes(b"more than coffee")
        assert "expected 6 bytes, found 16" in refusal(bundle, artifact).message

    def test_a_link(self, bundle: Path, artifact: Path) -> None:
        (artifact / "model/adapters/tea.gguf").unlink()
        (artifact / "model/adapters/tea.gguf").symlink_to("coffee.gguf")
        assert "expected a plain file, found a symbolic link" in refusal(bundle, artifact).message

    def test_a_manifest_that_says_otherwise_of_the_bases_files(self, bundle: Path, artifact: Path) -> None:
        """Nobody would look: the base was held against its own manifest."""
        text = (artifact / MANIFEST_NAME).read_text()
        assert text.count('"size": 3000') == 1
        (artifact / MANIFEST_NAME).write_text(text.replace('"size": 3000', '"size": 3001'))
        assert "expected files of the base as it has them" in refusal(bundle, artifact).message


class TestEntries:
    def test_an_artifact_holds_its_own_files(self, artifact: Path) -> None:
        manifest = read_manifest(artifact)
        assert is_artifact(artifact, manifest)
        assert {entry.path for entry in entries_in(artifact, manifest)} == set(ADAPTER_FILES)

    def test_a_bundle_holds_all(self, bundle: Path, whole: Path) -> None:
        for folder in (bundle, whole):
            manifest = read_manifest(folder)
            assert not is_artifact(folder, manifest)
            assert entries_in(folder, manifest) == manifest.files

    @pytest.mark.parametrize("path", FILES)
    def test_one_file_of_the_base_makes_it_a_broken_bundle(self, artifact: Path, path: str) -> None:
        """A copy that was cut is not taken for adapters, nor is a link to nowhere for nothing."""
        (artifact / path).parent.mkdir(parents=True, exist_ok=True)
        (artifact / path).symlink_to("nowhere")
        manifest = read_manifest(artifact)
        assert not is_artifact(artifact, manifest)
        assert entries_in(artifact, manifest) == manifest.files


def test_the_second_adapter_of_an_artifact_is_asked_for_behind_its_folder(
    bundle: Path, artifact: Path
) -> None:
    manifest = read_manifest(artifact)
    for adapter in manifest.adapters:
        opened = open_bundle(bundle, f"{artifact}:{adapter.name}")
        assert (opened.beside, opened.adapter) == (artifact, adapter.name)
    with pytest.raises(BadInputError, match="expected the name of an adapter"):
        open_bundle(bundle, f"{artifact}:none")
    with pytest.raises(BadInputError, match="expected the name of an adapter"):
        open_bundle(bundle, f"{artifact}-nowhere:none")

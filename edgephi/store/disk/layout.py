"""Where everything in a store lies."""

from dataclasses import dataclass
from pathlib import Path

from edgephi.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgephi.commands import edgephi_command
from edgephi.errors import UsageError

GENERATIONS_FOLDER = "gens"

_FOLDERS = ("objects", "objects/sha256", "parts", GENERATIONS_FOLDER, "trust")
_TRIED = ".tried"
OWN_NAMES = frozenset(
    {
        *("objects", "parts", GENERATIONS_FOLDER, "trust", "envs"),
        *("current", "previous", "state.json", "lock", _TRIED),
    }
)


@dataclass(frozen=True)
class Layout:
    """The paths of the store in the folder `root`; none of them need exist."""

    root: Path

    @property
    def objects(self) -> Path:
        """Files by their sha256."""
        return self.root / "objects" / "sha256"

    @property
    def parts(self) -> Path:
        """Files whose transfer has begun, and the journal of what has arrived."""
        return self.root / "parts"

    @property
    def journal(self) -> Path:
        """The chunks of `parts` that the disk holds for certain."""
        return self.parts / "journal"

    @property
    def generations(self) -> Path:
        """Bundles by their digest."""
        return self.root / GENERATIONS_FOLDER

    @property
    def current(self) -> Path:
        """The link to the generation that runs."""
        return self.root / "current"

    @property
    def previous(self) -> Path:
        """The link to the generation that ran before."""
        return self.root / "previous"

    @property
    def state(self) -> Path:
        """What is committed, on trial and known; see `edgephi.store.state`."""
        return self.root / "state.json"

    @property
    def trust(self) -> Path:
        """Public keys of those whose bundles may be installed."""
        return self.root / "trust"

    @property
    def environments(self) -> Path:
        """Python environments that were made from a bundle's wheels."""
        return self.root / "envs"

    @property
    def lock(self) -> Path:
        """Held by whoever changes the store."""
        return self.root / "lock"

    @property
    def tried(self) -> Path:
        """Where it is tried what the file system can do, before there is a store."""
        return self.root / _TRIED

    def object(self, sha256: str) -> Path:
        """The file with that content."""
        return self.objects / sha256

    def part(self, sha256: str) -> Path:
        """What has arrived of the file with that content."""
        return self.parts / f"{sha256}.part"

    def generation(self, digest: str) -> Path:
        """The bundle whose manifest has that sha256."""
        return self.generations / digest

    def manifest(self, digest: str) -> Path:
        """The manifest of a generation."""
        return self.generation(digest) / MANIFEST_NAME

    def signature(self, digest: str) -> Path:
        """The signature of a generation, which not every one has."""
        return self.generation(digest) / SIGNATURE_NAME


def is_store(root: Path) -> bool:
    """Whether the folder holds a store. Its state may be lost: the links and generations tell most of it."""
    layout = Layout(root)
    return layout.objects.is_dir() and layout.generations.is_dir()


def check_store(root: Path) -> None:
    """Raise UsageError unless a store is at `root`."""
    if not is_store(root):
        found = "a folder without one" if root.is_dir() else "no such folder"
        raise UsageError(
            f"{root}: expected a store, found {found}", hint=edgephi_command("flash", "BUNDLE", root)
        )


def missing_folders(layout: Layout) -> list[Path]:
    """The store's own folders that are not there yet, outer ones first."""
    wanted = [layout.root, *(layout.root / name for name in _FOLDERS)]
    return [folder for folder in wanted if not folder.is_dir()]

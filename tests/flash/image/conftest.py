"""The command line, for tests of images."""

from tests.cli.conftest import edgephi  # noqa: F401 - a fixture

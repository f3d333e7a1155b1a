"""A wheel whose bytes were changed: unpacked as it says, or refused, and nothing outside its environment."""

import contextlib
import hashlib
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgephi.errors import BadBundleError, DoesNotFitError
from edgephi.store.environments.wheels import SealedWheel, unpack_wheels
from tests.property_profile import examples
from tests.store.environments.wheel_bundles import wheel


def _room_for_a_megabyte(size: int) -> None:
    if size > 1 << 20:
        raise DoesNotFitError("too large", hint="")


@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_kind_is_a_wheel_or_none_and_stays_inside(
    tmp_path: Path, changes: list[tuple[float, int]]
) -> None:
    files = {"package/module.py": "x" * 50, "x-1.data/data/share/file": "y", "x-1.data/purelib/z.py": ""}
    data = bytearray(wheel(files))
    for place, byte in changes:
        data[int(place * (len(data) - 1))] = byte
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        file = Path(folder) / "x-1-py3-none-any.whl"
        file.write_bytes(data)
        environment = Path(folder) / "outer" / "environment"
        environment.mkdir(parents=True)
        sealed = SealedWheel(file, hashlib.sha256(data).hexdigest())
        written: dict[str, str] = {}
        with contextlib.suppress(BadBundleError, DoesNotFitError):
            written = unpack_wheels(
                [sealed], environment, "3.11", check_room=_room_for_a_megabyte, progress=lambda _: None
            )
        assert sorted(Path(folder).iterdir()) == [environment.parent, file]
        assert list(environment.parent.iterdir()) == [environment]
        for path, sha256 in written.items():
            assert hashlib.sha256((environment / path).read_bytes()).hexdigest() == sha256

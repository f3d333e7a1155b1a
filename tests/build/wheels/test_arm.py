"""The wheels for Arm: by their names and machine code, and at work in a Debian 12 for arm64 under QEMU.

That needs qemu-user-static, and in EDGEPHI_ARM64_ROOT the folder that `arm64_root FOLDER` has filled.
"""

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from edgephi.build.wheels.pip import run_pip
from edgephi.bundle.files import check_files
from tests.build.wheels.conftest import BuildWithWheels
from tests.build.wheels.test_install import ANSWER, PROMPT

pytestmark = pytest.mark.slow

ARM = "linux-aarch64-cp311"
# e_machine of an ELF header, at byte 18
_AARCH64 = 183

ROOT = os.environ.get("EDGEPHI_ARM64_ROOT", "")
QEMU = shutil.which("qemu-aarch64-static")
needs_emulation = pytest.mark.skipif(
    not ROOT or QEMU is None, reason="no qemu-aarch64-static, or EDGEPHI_ARM64_ROOT names no Debian for arm64"
)

# A Raspberry Pi 5 by what onnxruntime reads of it. Under QEMU the file shows the host's processor, and
# onnxruntime ends with a segmentation fault.
CPU_INFO = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""
# The kernel starts QEMU for each program of this kind, in these namespaces only.
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
START = f"""
set -eu
root=$1 work=$2 cpu_info=$3 command=$4
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf %s ':qemu-aarch64:M::{MAGIC}:{MASK}:{QEMU}:F' > /proc/sys/fs/binfmt_misc/register
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount --bind "$cpu_info" "$root/proc/cpuinfo"
mount --bind "$work" "$root/tmp"
exec chroot "$root" /bin/sh -euc "cd /tmp; $command"
"""


def emulated(command: str, work: Path) -> str:
    """Standard output of a shell command in the arm64 system, whose folder /tmp is `work`."""
    cpu_info = work / "cpuinfo"
    cpu_info.write_text(CPU_INFO)
    namespaces = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
    ]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/tmp",
        "QEMU_CPU": "cortex-a76",
    }
    done = subprocess.run(
        [*namespaces, "sh", "-c", START, "sh", ROOT, str(work), str(cpu_info), command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", ["cpu", "gguf", "mlx", "openvino"])
def test_every_engine_has_wheels(build_with_wheels: BuildWithWheels, target: str) -> None:
    """By their names, and by the machine code inside."""
    built = build_with_wheels(target, ARM, "serve")
    check_files(built.folder, built.manifest)
    (wheelhouse,) = built.manifest.wheels
    wheels = sorted((built.folder / wheelhouse.folder).glob("*.whl"))
    libraries = 0
    for wheel in wheels:
        _, _, _, tags = parse_wheel_filename(wheel.name)
        assert all(tag.platform == "any" or tag.platform.endswith("_aarch64") for tag in tags), wheel.name
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    header = file.read(20)
                if header[:4] == b"\x7fELF":
                    libraries += 1
                    assert int.from_bytes(header[18:20], "little") == _AARCH64, entry.filename
    assert libraries > 2
    assert 17 <= int(wheelhouse.glibc.removeprefix("2.")) <= 36


@needs_emulation
def test_the_emulation_is_one(tmp_path: Path) -> None:
    asked = "import platform, sys; print(platform.machine(), *sys.version_info[:2])"
    assert emulated(f"python3 -c '{asked}'", tmp_path) == "aarch64 3 11\n"


@needs_emulation
@pytest.mark.parametrize("target", ["cpu", "gguf", "mlx", "openvino"])
def test_every_engine_answers(build_with_wheels: BuildWithWheels, tmp_path: Path, target: str) -> None:
    """Unpacked by this machine's pip, which is quicker than an emulated one."""
    built = build_with_wheels(target, ARM, "serve")
    folder = built.folder / built.manifest.wheels[0].folder
    run_pip(
        ["install", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), "--no-compile",
         "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp",
         *(word for minor in (17, 28, 31, 35) for word in ("--platform", f"manylinux_2_{minor}_aarch64")),
         *("--platform", "manylinux2014_aarch64"), *map(str, sorted(folder.glob("*.whl")))],
        scratch=tmp_path, where="test",
    )  # fmt: skip
    shutil.copytree(built.folder, tmp_path / "bundle")
    run = f"PYTHONPATH=site python3 site/bin/edgephi run bundle '{PROMPT}' --provider cpu --json"
    answered = emulated(run, tmp_path)
    assert json.loads(json.loads(answered[answered.index("{") :])["text"]) == ANSWER

"""What this machine is, held against psutil, the kernel's files and machines made of such files."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from edgephi.machine import accelerators, bandwidth
from edgephi.machine.accelerators import find_accelerators
from edgephi.machine.bandwidth import last_level_cache_bytes, read_bandwidth
from edgephi.machine.host import describe_host, usable_cores
from edgephi.runtime.engines.availability import engine_states, run_problem
from tests.installs import installs


def write(root: Path, files: dict[str, str]) -> Path:
    """A machine made of the kernel's files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


class TestHost:
    def test_this_machine(self) -> None:
        host = describe_host()
        assert host.processor.architecture == platform.machine()
        assert host.processor.logical_cores == psutil.cpu_count()
        assert host.processor.physical_cores == psutil.cpu_count(logical=False)
        assert 1 <= host.processor.usable_cores <= host.processor.logical_cores
        assert host.memory_bytes == psutil.virtual_memory().total
        assert 0 < host.available_bytes <= host.memory_bytes
        assert host.kernel == os.uname().release
        flags = Path("/proc/cpuinfo").read_text().split()
        assert ("avx2" in host.processor.features) == ("avx2" in flags)
        assert ("dotprod" in host.processor.features) == ("asimddp" in flags)

    def test_a_raspberry_pi(self, tmp_path: Path) -> None:
        root = write(
            tmp_path,
            {
                "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd aes asimddp\nCPU part\t: 0xd0b\n\n"
                "processor\t: 1\nFeatures\t: fp asimd\n",
                "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            },
        )
        host = describe_host(root)
        assert host.board == "Raspberry Pi 5 Model B Rev 1.0"
        assert host.processor.features == ("neon", "dotprod")

    def test_a_processor_with_integer_units(self, tmp_path: Path) -> None:
        root = write(
            tmp_path,
            {"proc/cpuinfo": "model name\t: Some CPU\nflags\t\t: avx2 avx512f avx_vnni amx_int8 amx_tile\n"},
        )
        processor = describe_host(root).processor
        assert processor.model == "Some CPU"
        assert processor.features == ("avx2", "avx_vnni", "avx512", "amx_int8")

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "100000 100000"}, 1),
            ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "50000 100000"}, 1),
            ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "max 100000"}, None),
            (
                {
                    "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/a",
                    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000",
                    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                },
                1,
            ),
            (
                {
                    "proc/self/cgroup": "3:cpu,cpuacct:/",
                    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                },
                None,
            ),
            ({}, None),
        ],
    )
    def test_control_groups_limit_the_cores(
        self, tmp_path: Path, files: dict[str, str], expected: int | None
    ) -> None:
        assert usable_cores(write(tmp_path, files)) == (expected or len(os.sched_getaffinity(0)))

    def test_affinity_limits_the_cores(self) -> None:
        code = (
            "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
            "from edgephi.machine.host import usable_cores; print(usable_cores())"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "1\n"


class TestAccelerators:
    def test_gpus_on_the_bus(self, tmp_path: Path) -> None:
        root = write(
            tmp_path,
            {
                "sys/bus/pci/devices/0000:00:02.0/vendor": "0x8086\n",
                "sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
                "sys/bus/pci/devices/0000:00:02.0/device": "0x7d55\n",
                "sys/bus/pci/devices/0000:00:02.0/drm/renderD128/dev": "226:128\n",
                "sys/bus/pci/drivers/i915/bind": "",
                "dev/dri/renderD128": "",
                # a network card of the same maker, and a display that nobody computes on
                "sys/bus/pci/devices/0000:00:1f.0/vendor": "0x8086\n",
                "sys/bus/pci/devices/0000:00:1f.0/class": "0x020000\n",
                "sys/bus/pci/devices/0000:00:03.0/vendor": "0x1234\n",
                "sys/bus/pci/devices/0000:00:03.0/class": "0x030000\n",
                # an AMD card without a driver
                "sys/bus/pci/devices/0000:01:00.0/vendor": "0x1002\n",
                "sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
                "sys/bus/pci/devices/0000:01:00.0/device": "0x744c\n",
            },
        )
        (root / "sys/bus/pci/devices/0000:00:02.0/driver").symlink_to(root / "sys/bus/pci/drivers/i915")
        intel, amd = (gpu for gpu in find_accelerators(root) if gpu.vendor != "NVIDIA")
        assert (intel.kind, intel.vendor, intel.name, intel.driver) == (
            "gpu",
            "Intel",
            "Intel GPU 7d55",
            "i915",
        )
        assert intel.problem == ""
        assert (amd.vendor, amd.problem) == ("AMD", "no kernel driver has taken it")

    def test_an_npu_that_was_not_passed_into_the_container(self, tmp_path: Path) -> None:
        root = write(
            tmp_path,
            {"sys/class/accel/accel0/device/uevent": "", "sys/bus/pci/drivers/intel_vpu/bind": ""},
        )
        (root / "sys/class/accel/accel0/device/driver").symlink_to(root / "sys/bus/pci/drivers/intel_vpu")
        (npu,) = (each for each in find_accelerators(root) if each.kind == "npu")
        assert (npu.vendor, npu.name, npu.driver) == ("Intel", "Intel NPU", "intel_vpu")
        assert "accel0 is missing" in npu.problem

    def test_a_hexagon(self, tmp_path: Path) -> None:
        (npu,) = (
            each
            for each in find_accelerators(write(tmp_path, {"dev/fastrpc-cdsp": ""}))
            if each.kind == "npu"
        )
        assert (npu.vendor, npu.problem) == ("Qualcomm", "")

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
    def test_a_device_that_this_user_may_not_open(self) -> None:
        code = (
            "import grp, os, sys; from pathlib import Path  # before Python's files are closed to it\n"
            "from edgephi.machine.accelerators import _access_problem\n"
            "os.setuid(65534); print(_access_problem(Path(sys.argv[1])))"
        )
        with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
            Path(folder).chmod(0o711)
            node = Path(folder) / "node"
            node.touch(0o660)
            said = subprocess.check_output([sys.executable, "-c", code, str(node)], text=True)
            assert said.strip() == f"no permission for {node}: add this user to the group {node.group()}"

    def test_what_nvidias_library_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Against a library with NVIDIA's functions: names, signatures and units are its manual's."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler")
        library = tmp_path / "libnvml.so"
        source = tmp_path / "nvml.c"
        source.write_text(_NVML)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        monkeypatch.setattr(accelerators, "_NVML", str(library))
        first, second = find_accelerators(tmp_path)
        assert (first.kind, first.vendor, first.name) == ("gpu", "NVIDIA", "NVIDIA H200")
        assert first.driver == "NVIDIA 570.86.15"
        assert (first.memory_bytes, first.free_bytes) == (150_754_820_096, 150_000_000_000)
        assert first.bytes_per_second == pytest.approx(4.917e12, rel=1e-3)  # 3,201 MHz, 6,144 bits, twice
        assert second.bytes_per_second is None
        assert ctypes.CDLL(str(library)).shut_down() == 1


_NVML = r"""
#include <string.h>
static int down;
int shut_down(void) { return down; }
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { down++; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned n) { strncpy(text, "570.86.15", n); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **device) {
    if (i == 1) return 15;  /* lost */
    *device = (void *)(0x7f0000000000 + i); return 0; }
int nvmlDeviceGetName(void *device, char *text, unsigned n) { strncpy(text, "NVIDIA H200", n); return 0; }
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *device, struct memory *m) {
    m->total = 150754820096ULL; m->free = 150000000000ULL; m->used = 754820096ULL; return 0; }
int nvmlDeviceGetMaxClockInfo(void *device, int type, unsigned *mhz) {
    if (device != (void *)0x7f0000000000 || type != 2) return 3;  /* not supported */
    *mhz = 3201; return 0; }
int nvmlDeviceGetMemoryBusWidth(void *device, unsigned *bits) { *bits = 6144; return 0; }
"""


class TestBandwidth:
    def test_within_a_factor_of_what_numpy_reads(self) -> None:
        threads = usable_cores()
        start = time.perf_counter()
        measured = read_bandwidth(2 << 30, threads=threads)
        seconds = time.perf_counter() - start
        # A machine may be busy with other tests: the factors are wide, and tell GB/s from MB/s all the same.
        assert 1 / 4 < measured / numpy_bandwidth(threads) < 4
        assert seconds < 6

    def test_a_small_machine(self) -> None:
        assert read_bandwidth(64 << 20, threads=1) > 1e8

    def test_the_largest_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(
            tmp_path,
            {"index0/size": "32K\n", "index2/size": "1M\n", "index3/size": "32768K\n", "index4/size": "\n"},
        )
        monkeypatch.setattr(bandwidth, "_CACHES", tmp_path)
        assert last_level_cache_bytes() == 32 << 20
        monkeypatch.setattr(bandwidth, "_CACHES", tmp_path / "none")
        assert last_level_cache_bytes() == 0


def numpy_bandwidth(threads: int) -> float:
    """Bytes per second that NumPy's `max` reads in as many threads: the best of some passes."""
    buffers = [np.ones(16 << 20, np.float32) for _ in range(threads)]
    best = 0.0
    for _ in range(8):
        workers = [threading.Thread(target=buffer.max) for buffer in buffers]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, sum(buffer.nbytes for buffer in buffers) / (time.perf_counter() - start))
    return best


class TestAvailability:
    ENGINE = "onnxruntime-genai"

    def test_an_installed_engine(self) -> None:
        import onnxruntime_genai

        state = engine_states({self.ENGINE: ["cpu", "abacus"]})[self.ENGINE]
        assert state.version == onnxruntime_genai.__version__
        assert state.problems["cpu"] == ""
        assert "only" in state.problems["abacus"]
        here = [platform.machine()]
        assert run_problem(self.ENGINE, "cpu", arch=here, allowed=">=0.18", state=state) is None
        problem = run_problem(self.ENGINE, "cpu", arch=here, allowed=">=99", state=state)
        assert problem is not None
        assert problem.message == f"needs {self.ENGINE} >=99, found {state.version}"
        problem = run_problem(self.ENGINE, "cpu", arch=["riscv64"], allowed="", state=state)
        assert problem is not None
        assert problem.message == f"made for riscv64, this machine is {platform.machine()}"

    def test_an_engine_that_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The engine's process finds nothing of it where it looks for installed packages."""
        monkeypatch.setenv("PYTHONPATH", str(hidden(tmp_path, "metadata.version = missing")))
        state = engine_states({self.ENGINE: ["cpu"]})[self.ENGINE]
        assert state.version is None
        problem = run_problem(self.ENGINE, "cpu", arch=[platform.machine()], allowed="", state=state)
        assert problem is not None
        assert problem.message == f"{self.ENGINE} is not installed"
        assert installs(problem.hint, "cpu")

    def test_an_engine_that_does_not_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "onnxruntime_genai.py").write_text("raise ImportError('libgomp.so.1: cannot open')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        state = engine_states({self.ENGINE: ["cpu"]})[self.ENGINE]
        assert state.version is not None
        assert "libgomp.so.1: cannot open" in state.problems["cpu"]

    def test_an_engine_that_ends_its_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "onnxruntime_genai.py").write_text("import os; os.kill(os.getpid(), 4)")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        state = engine_states({self.ENGINE: ["cpu"]})[self.ENGINE]
        assert "SIGILL" in state.problems["cpu"]

    def test_an_engine_of_another_edgephi(self) -> None:
        assert engine_states({"abacus": ["cpu"]}) == {}
        problem = run_problem("abacus", "cpu", arch=[], allowed="", state=None)
        assert problem is not None
        assert "does not run abacus" in problem.message


def hidden(folder: Path, statement: str) -> Path:
    """A folder whose `sitecustomize` changes what the engine's process sees before it starts."""
    (folder / "sitecustomize.py").write_text(
        "from importlib import metadata\n"
        "def missing(name): raise metadata.PackageNotFoundError(name)\n"
        f"{statement}\n"
    )
    return folder

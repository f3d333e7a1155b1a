"""Environments of their own for clients that must not be beside the tests: they hold other packages back."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path


def client_environment(cache: Path, requirements: Path) -> Path:
    """The Python of an environment with the packages that a file asks for, made in `cache` when it is new.

    Safe from several processes at once: one makes it, and the others wait. Raises CalledProcessError where
    the packages cannot be had.
    """
    asked = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    found = cache / f"{requirements.stem}-{asked}"
    python = found / "bin/python"
    with (cache / f"{requirements.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (found / "whole").exists():
            for older in cache.glob(f"{requirements.stem}-*"):
                shutil.rmtree(older)
            subprocess.run([sys.executable, "-m", "venv", found], check=True)
            install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "-r", requirements]
            subprocess.run(list(map(str, install)), check=True)
            (found / "whole").touch()
    return python

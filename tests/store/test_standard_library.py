"""The store travels to devices that have Python and nothing else."""

import subprocess
import sys
from pathlib import Path

import edgephi

STORE = Path(edgephi.__file__).parent / "store"
OTHERS = {
    "edgephi.store.agent.program"
}  # a program, which talks on its standard output when it is imported as one


def test_every_module_imports_without_any_package() -> None:
    files = (path.relative_to(STORE.parents[1]).with_suffix("") for path in STORE.rglob("*.py"))
    modules = sorted({".".join(file.parts) for file in files} - OTHERS)
    code = (
        f"import sys; sys.path.insert(0, {str(STORE.parents[1])!r}); import importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        # None stands where a module must not be imported.
        "there = {name.split('.')[0] for name, module in sys.modules.items() if module is not None}\n"
        "foreign = there - sys.stdlib_module_names - {'edgephi'}\n"
        "print(sorted(name for name in foreign if not name.startswith('_')))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")

"""mlx-lm's modules, without what the package imports for its command line.

The package itself pulls in transformers, and PyTorch where there is one, which takes seconds.
"""

import importlib
import importlib.util
import sys
from types import ModuleType

_PACKAGE = "mlx_lm"
_ALIAS = f"_edgephi_{_PACKAGE}"


def engine_module(name: str) -> ModuleType:
    """The module `mlx_lm.models.NAME`. Raises ImportError, ModuleNotFoundError without mlx-lm.

    Such modules lie in a package of our own name with mlx-lm's path, so that `import mlx_lm` elsewhere in
    this process still gets the whole of it.
    """
    if _ALIAS not in sys.modules:
        found = importlib.util.find_spec(_PACKAGE)  # does not run the package
        if found is None or found.submodule_search_locations is None:
            raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
        package = ModuleType(_ALIAS)
        package.__path__ = list(found.submodule_search_locations)
        sys.modules[_ALIAS] = package
    return importlib.import_module(f"{_ALIAS}.models.{name}")

"""The process of `--exporter upstream`: `python -P -m edgephi.export.upstream_process MODULE ARGUMENT…`.

It runs the converter's module as `python -m` would; but edgephi, which comes first, has switched off what the
converter's libraries would report.
"""

import runpy
import sys


def main() -> None:
    """Run the module that the command line names, with the arguments after it."""
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""How fast changes are read: logs on private servers, readers side by side, and the stages of ours by themselves.

Knows how figures are taken (docs/benchmarks.md); nothing in the service knows of this package.
"""

import os
import sys
from pathlib import Path

# What is measured runs compiled, as installed packages do, also where the environment forbids Python to write bytecode:
# compiling the sources anew is a third of the start of a process. Python's own packages are kept with ours.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    os.environ.setdefault(
        "PYTHONPYCACHEPREFIX", str(Path(__file__).resolve().parent.parent / "var/benchmarks/bytecode")
    )

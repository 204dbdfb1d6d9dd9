"""Builds the compiled half of the service, cdc/*/kernel (Cython). Everything else is in pyproject.toml.

    python setup.py build_ext --inplace            the kernel, where it changed (`make kernel`)
    CDC_KERNEL=debug python setup.py build_ext ... bounds checks, assertions, -O1
    CDC_KERNEL=sanitize ...                        that, AddressSanitizer and UBSan (`make sanitize`)
    CDC_KERNEL_ONLY=rows,memory ...                just these modules (`none`: no module at all)
    CDC_KERNEL_WERROR=1 ...                        a compiler warning is an error

What is made on the way lies below build/kernel, in a directory for each flavour, interpreter and version of this file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import sys
import time
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = sorted(Path("cdc").glob("*/kernel"))
FLAVOUR = os.environ.get("CDC_KERNEL", "release")
ONLY = [name for name in os.environ.get("CDC_KERNEL_ONLY", "").split(",") if name]
# What CPython adds for its own sake (-fwrapv, -g, -O2) stands before these, so these win.
FLAGS = {
    "release": ["-O3", "-g0", "-Wall", "-Wno-unused-function"],
    "debug": ["-O1", "-g", "-Wall", "-Wno-unused-function", "-UNDEBUG"],
    "sanitize": [
        "-O1",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-fno-omit-frame-pointer",
        "-fno-wrapv",
        "-Wno-unused-function",
        "-UNDEBUG",
    ],
}[FLAVOUR]
LINK_FLAGS = ["-fsanitize=address,undefined"] if FLAVOUR == "sanitize" else []
# Time stamps tell that a source changed, but not that flags or compilers did.
_CIRCUMSTANCES = (Path(__file__).read_text(), Cython.__version__, sys.version, platform.machine(), os.environ.get("CC"))
BUILD = Path("build/kernel") / f"{FLAVOUR}-{hashlib.sha256(repr(_CIRCUMSTANCES).encode()).hexdigest()[:8]}"


class BuildKernel(build_ext):
    """setuptools' own, with a place for each flavour, and modules that appear in the checkout whole."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.build_temp = str(BUILD / "objects")
        if self.inplace:
            self.build_lib = str(BUILD / "lib")

    def run(self) -> None:
        super().run()
        if self.inplace:  # a module whose source is gone must not be found any more
            for module in Path("cdc").glob("*/kernel/*.so"):
                if not module.with_name(f"{module.name.partition('.')[0]}.pyx").exists():
                    module.unlink()

    def copy_file(self, infile: str, outfile: str, **options: object) -> tuple[str, bool]:
        # Another process may import the module at this moment.
        part = f"{outfile}.part{os.getpid()}"
        super().copy_file(infile, part, **options)
        Path(part).replace(outfile)
        return outfile, True


def extensions() -> list[Extension]:
    """The kernel's modules, as C sources in BUILD."""
    # One build at a time in a checkout; the lock is gone with the process.
    fcntl.flock(os.open(__file__, os.O_RDONLY), fcntl.LOCK_EX)
    began = time.time()
    flags = FLAGS + ["-Werror"] * (os.environ.get("CDC_KERNEL_WERROR") == "1")
    modules: list[Extension] = cythonize(
        [
            Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                extra_compile_args=flags,
                extra_link_args=LINK_FLAGS,
                include_dirs=[str(kernel) for kernel in KERNELS],
                depends=[str(header) for kernel in KERNELS for header in sorted(kernel.glob("*.h"))],
            )
            for kernel in KERNELS
            for source in sorted(kernel.glob("*.pyx"))
            if not ONLY or source.stem in ONLY
        ],
        build_dir=str(BUILD / "sources"),
        compiler_directives={
            "language_level": "3",
            "boundscheck": FLAVOUR != "release",
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
        },
        quiet=True,
    )
    for module in modules:  # as old as what it was made of: an edit while Cython ran counts for the next build
        made = Path(module.sources[0])
        if made.stat().st_mtime > began:
            os.utime(made, (began, began))
    return modules


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernel})

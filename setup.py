"""Builds the compiled half of the service, cdc/binlog/kernel (Cython). Everything else is in pyproject.toml.

    python setup.py build_ext --inplace            the kernel, where it changed
    CDC_KERNEL=debug python setup.py build_ext ... bounds checks, assertions, -O1
    CDC_KERNEL=sanitize ...                        that, AddressSanitizer and UBSan (`make sanitize`)
    CDC_KERNEL_ONLY=rows,memory ...                just these modules
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

KERNEL = Path("cdc/binlog/kernel")
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
        "-fno-omit-frame-pointer",
        "-fno-wrapv",
        "-Wno-unused-function",
        "-UNDEBUG",
    ],
}[FLAVOUR]
LINK_FLAGS = ["-fsanitize=address,undefined"] if FLAVOUR == "sanitize" else []

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"cdc.binlog.kernel.{source.stem}",
                [str(source)],
                extra_compile_args=FLAGS,
                extra_link_args=LINK_FLAGS,
                depends=[str(header) for header in sorted(KERNEL.glob("*.h"))],
            )
            for source in sorted(KERNEL.glob("*.pyx"))
            if not ONLY or source.stem in ONLY
        ],
        compiler_directives={
            "language_level": "3",
            "boundscheck": FLAVOUR != "release",
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
        },
        force=FLAVOUR != "release",
        quiet=True,
    )
)

"""Whether ``torch.compile`` can build kernels on this machine."""

import os
import shutil
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def compiler_found(device: str) -> bool:
    """Whether there is what kernels of a device (``cpu``, ``cuda``) are built with.

    Python's own headers, and on a CPU a C++ compiler. On a GPU Triton makes the kernels, and needs a C compiler for
    what starts them (``triton/runtime/build.py``); many images that bring CUDA have none.
    """
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return False
    if device == "cuda":
        return find_spec("triton") is not None and any(map(shutil.which, (os.environ.get("CC", ""), "gcc", "clang")))
    return any(map(shutil.which, ("g++", "clang++", "c++")))

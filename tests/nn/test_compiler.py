"""What is needed to compile kernels for a device, and told from what is there."""

import pytest

from isogloss.nn import compiler as module
from isogloss.nn.compiler import compiler_found


@pytest.mark.parametrize(
    ("programs", "triton", "cpu", "cuda"),
    [
        ({"g++", "gcc"}, True, True, True),
        ({"g++", "gcc"}, False, True, False),
        ({"clang"}, True, False, True),
        ({"mine"}, True, False, True),
        ({"c++"}, True, True, False),
        (set(), True, False, False),
    ],
)
def test_what_each_device_needs(monkeypatch, tmp_path, programs: set[str], triton: bool, cpu: bool, cuda: bool) -> None:
    monkeypatch.setenv("CC", "mine")
    monkeypatch.setattr(module.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(module, "find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").touch()
    assert [compiler_found.__wrapped__(device) for device in ("cpu", "cuda")] == [cpu, cuda]
    (tmp_path / "Python.h").unlink()
    assert not any(compiler_found.__wrapped__(device) for device in ("cpu", "cuda"))

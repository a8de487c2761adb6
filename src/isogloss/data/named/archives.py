"""Files out of downloaded archives, read and never run: wheels (zip) and source distributions (tar.gz).

Nothing is unpacked to the disk. A member is read only if its name stays inside the archive's own folder, it is an
ordinary file, and it is no larger than it may be; what it decompresses to is measured, not believed.
"""

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from isogloss.config.base import UserError

MAX_MEMBER_BYTES = 64 << 20
MAX_TOTAL_BYTES = 1 << 30


def read_members(archive: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a ``.whl`` or ``.tar.gz`` whose name is wanted, in order of their names.

    Raises:
        UserError: it is no such archive, or has a member that points outside, is no file, or is too large.
    """
    try:
        members = _zip_members if archive.suffix == ".whl" else _tar_members
        total = 0
        for name, data in members(archive, wanted):
            total += len(data)
            if total > MAX_TOTAL_BYTES:
                raise UserError(f"{archive}: holds more than {MAX_TOTAL_BYTES:,} bytes; it is not read")
            yield name, data
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be read as an archive ({error}); delete it and fetch it again") from error


def _zip_members(archive: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as opened:
        for info in sorted(opened.infolist(), key=lambda info: info.filename):
            _check_name(archive, info.filename)
            if info.is_dir() or not wanted(info.filename):
                continue
            with opened.open(info) as stream:
                yield info.filename, capped(archive, info.filename, stream.read(MAX_MEMBER_BYTES + 1))


def _tar_members(archive: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive, "r:gz") as opened:
        for info in sorted(opened.getmembers(), key=lambda info: info.name):
            tarfile.data_filter(info, "/")  # refuses links, devices and names that lead outside
            _check_name(archive, info.name)
            if not info.isreg() or not wanted(info.name):
                continue
            stream = opened.extractfile(info)
            assert stream is not None
            yield info.name, capped(archive, info.name, stream.read(MAX_MEMBER_BYTES + 1))


def _check_name(archive: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise UserError(f"{archive}: its member {name!r} points outside the archive; it is not read")


def capped(archive: Path, name: str, data: bytes) -> bytes:
    """The same bytes. Raises ``UserError`` if there are more than a member may have."""
    if len(data) > MAX_MEMBER_BYTES:
        raise UserError(f"{archive}: its member {name} is larger than {MAX_MEMBER_BYTES:,} bytes; it is not read")
    return data

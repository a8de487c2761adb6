"""Pass 2's end: the shards of all ranges become one corpus with a manifest, in its place whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isogloss.data.prepare.tokenise import RangeRecord, SideRecord, shard_name
from isogloss.data.prepared import (
    BAD_RECORDS,
    MANIFEST,
    TOKENIZER_FOLDER,
    FileRecord,
    Manifest,
    SplitName,
    SplitRecord,
)
from isogloss.data.stamps import Stamps
from isogloss.durable import hash_file, put_folder, whole_file


def collect_split(folder: Path, name: SplitName, sides: Sequence[SideRecord]) -> SplitRecord:
    """Write where a split's documents start, over all its shards."""
    n_documents = sum(side.shard.n_documents for side in sides)
    before = 0
    with whole_file(folder / f"{name}.starts.npy") as stream:
        header = {"descr": "<i8", "fortran_order": False, "shape": (n_documents,)}
        np.lib.format.write_array_header_1_0(stream, header)
        for number, side in enumerate(sides):
            if side.shard.n_documents:
                starts = np.fromfile(folder / f"{shard_name(name, number)}.starts", "<i8")
                stream.write((starts + before).tobytes())
                before += side.shard.n_tokens
    return SplitRecord(
        n_documents=n_documents,
        n_bytes=sum(side.n_bytes for side in sides),
        n_tokens=before,
        shards=tuple(f"{shard_name(name, i)}.bin" for i, side in enumerate(sides) if side.shard.n_documents),
    )


def file_records(folder: Path, manifest_files: Sequence[str], ranges: Sequence[RangeRecord]) -> dict[str, FileRecord]:
    """What each file is; that of a shard was hashed as it was written."""
    hashes = {
        f"{shard_name(name, number)}.bin": side.shard.sha256
        for number, record in enumerate(ranges)
        for name, side in (("train", record.train), ("validation", record.validation))
    }
    return {
        name: FileRecord(n_bytes=(folder / name).stat().st_size, sha256=hashes.get(name) or hash_file(folder / name))
        for name in sorted(manifest_files)
    }


def corpus_files(folder: Path, splits: Sequence[SplitRecord]) -> list[str]:
    """The files that belong to the corpus, without the manifest; any other is left over from working."""
    names = {f"{name}.starts.npy" for name in ("train", "validation")} | {BAD_RECORDS}
    names |= {shard for split in splits for shard in split.shards}
    in_tokenizer = [f"{TOKENIZER_FOLDER}/{path.name}" for path in (folder / TOKENIZER_FOLDER).iterdir()]
    return [*(name for name in sorted(names) if (folder / name).exists()), *in_tokenizer]


def put_in_place(work: Path, folder: Path, manifest: Manifest) -> None:
    """Leave nothing but the corpus in ``work``, vouch for it and rename it to ``folder``."""
    for path in list(work.rglob("*")):
        if path.is_file() and path.relative_to(work).as_posix() not in manifest.files:
            path.unlink()
    with whole_file(work / MANIFEST) as stream:
        stream.write(manifest.model_dump_json(indent=2).encode())
    stamps = Stamps(work)
    stamps.vouch(manifest.files)
    stamps.save()
    put_folder(work, folder)  # what is there is damaged: it was refused

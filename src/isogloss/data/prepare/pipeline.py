"""From documents to a prepared corpus, once, in two passes over the text and in bounded memory.

Pass 1 reads the units of the input (``scan``) and leaves them as sorted runs (``spills``); then it is decided by key
what is dropped, trained on and validated on (``near_duplicates``, ``split``); pass 2 merges the runs and stores the
tokens (``tokenise``). Both passes are done by worker processes, a unit or a range of keys at a time, and what they have
finished survives the process (``work``): the next one goes on. The corpus is a function of the set of documents, the
settings and the tokenizer, whatever the number of workers, the order of files or the moments of being killed.

The folder's name is a hash of everything that decides its content. It is renamed into place when it is complete and on
the disk: whoever comes next finds a whole corpus or none.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isogloss.config.base import Config, UserError
from isogloss.config.quantity import count
from isogloss.data.baselines import Baselines, measure_baselines
from isogloss.data.corpus import hash_of
from isogloss.data.prepare.config import DECISIVE, FilesText, TextChoice
from isogloss.data.prepare.folder import collect_split, corpus_files, file_records, put_in_place
from isogloss.data.prepare.inputs import Inputs, open_inputs
from isogloss.data.prepare.keys import FORMAT, scan_key, split_decision
from isogloss.data.prepare.near_duplicates import find_near_duplicates
from isogloss.data.prepare.progress import Lines, Watch
from isogloss.data.prepare.scan import ScanTask, report_bad, scan_unit
from isogloss.data.prepare.spills import KEY, Spills, UnitRecord, read_record
from isogloss.data.prepare.split import Split, check_train_bytes, choose_split, doubts
from isogloss.data.prepare.tokenise import RangeRecord, TokeniseTask, read_range, tokenise_range
from isogloss.data.prepare.work import BAD_ENDING, remove, remove_idle, work_folder
from isogloss.data.prepare.workers import Workers, count_cores, start_workers
from isogloss.data.prepared import BAD_RECORDS, TOKENIZER_FOLDER, Manifest, PreparedCorpus, SplitRecord, open_prepared
from isogloss.data.shards import token_dtype
from isogloss.data.sources.account import count_in_words, tell_passed_over, tell_suspicious
from isogloss.data.sources.suspicion import ALTERED
from isogloss.data.sources.tally import Tallies, Tally, merge
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.data.tokenizers.config import BPEConfig, TokenizerConfig
from isogloss.data.tokenizers.loading import build_tokenizer
from isogloss.durable import DISK_FULL

TOKENIZER_BYTES = 256 << 20
"""Of training text, in the order of keys and so drawn at random, that a tokenizer learns from."""

Say = Callable[[str], None]


def prepare(
    config: TextChoice,
    tokenizer: TokenizerConfig | Tokenizer,
    progress: Say = lambda message: None,
    verify: bool = False,
    *,
    workers: int | None = None,
    watch: Watch | None = None,
) -> PreparedCorpus:
    """The prepared corpus of a config: an existing one where it is whole, else a new one.

    Args:
        config: the corpus.
        tokenizer: its tokenizer, or the config of one; one that is trained sees the training split only.
        progress: told in a short sentence what is being done.
        verify: read all inputs and all files of an existing corpus, not only those that seem to have changed.
        workers: processes; 0 for this one alone. Without it one a core, or none where the input is small.
        watch: follows the bytes done; without it ``progress`` is told now and then.

    Raises:
        UserError: inputs that cannot be read or are empty, too many bad records, or a folder that cannot be written.
    """
    if isinstance(tokenizer, str):
        raise UserError(f"a tokenizer is one, or the config of one such as BytesConfig(), got {tokenizer!r}")
    inputs = open_inputs(config, verify)
    for line in tell_passed_over(inputs.passed_over):
        progress(line)
    if isinstance(tokenizer, BPEConfig):
        ready, decides = None, tokenizer.model_dump(mode="json")
    else:  # by its content, which may have changed under the same path
        ready = build_tokenizer(tokenizer, tuple) if isinstance(tokenizer, Config) else tokenizer
        decides = ready.fingerprint
    folder = config.prepared_dir / hash_of([scan_key(inputs), *split_decision(config), decides])
    if (corpus := _reuse(folder, config, verify, progress)) is None:
        with _scanned(config, inputs, progress, workers, watch) as scan:
            # Another process may have made it meanwhile; what is wrong with it has been said.
            if (corpus := _reuse(folder, config, verify, lambda message: None)) is None:
                _make(folder, config, tokenizer, ready, scan)
                corpus = open_prepared(folder)
            remove(scan.folder)
    else:
        remove_idle(config.prepared_dir, scan_key(inputs))
    for line in _tell_left_out(corpus.manifest):
        progress(line)
    _check_split(corpus, config, progress)
    return corpus


def _tell_left_out(manifest: Manifest) -> list[str]:
    """What is not in the corpus, and what in it is odd."""
    left_out = [f"left out: {count_in_words(manifest.left_out)}"] if manifest.left_out else []
    return [*left_out, *tell_suspicious(manifest.suspicious)]


def training_texts(
    config: TextChoice,
    progress: Say = lambda message: None,
    verify: bool = False,
    *,
    workers: int | None = None,
    watch: Watch | None = None,
) -> tuple[str, Callable[[], Iterator[str]]]:
    """What identifies the texts that would be trained on, and a way to read them in their order again and again.

    For building the tokenizer of several corpora. Reading does pass 1 and keeps it for ``prepare``, which waits until
    the iterator has ended or was closed.

    Raises:
        UserError: as ``prepare``.
    """
    inputs = open_inputs(config, verify)

    def read() -> Iterator[str]:
        with _scanned(config, inputs, progress, workers, watch) as scan:
            yield from scan.texts("train")

    return hash_of([scan_key(inputs), *split_decision(config)]), read


@dataclass(frozen=True)
class _Scan:
    """What pass 1 found, and what was decided on it."""

    folder: Path
    inputs: Inputs
    records: list[UnitRecord]
    spills: Spills
    split: Split
    workers: Workers
    say: Say
    watch: Watch

    def texts(self, split: str) -> Iterator[str]:
        return self.split.texts(self.spills, split)


@contextmanager
def _scanned(
    config: TextChoice, inputs: Inputs, say: Say, n_workers: int | None, watch: Watch | None
) -> Iterator[_Scan]:
    """Do pass 1, or what is left of it, and hold its folder."""
    if n_workers is None:
        n_workers = 0 if inputs.is_small else count_cores()
    watch = watch or Lines(say)
    paths = [*config.train, *config.validation] if isinstance(config, FilesText) else [inputs.origin]
    with _explained(config, inputs), work_folder(config.prepared_dir, scan_key(inputs), paths, say) as folder:
        try:
            with start_workers(n_workers) as workers:
                say(f"reading {inputs.origin}")
                records = _scan(folder, config, inputs, workers, watch)
                spills = Spills(folder / "spills", records)
                dropped = np.empty(0, KEY)
                if inputs.near_duplicates is not None:
                    say("looking for near duplicates")
                    dropped = find_near_duplicates(spills, inputs.near_duplicates.threshold)
                if spills.n_documents == 0 and (bad := [entry for record in records for entry in record.bad]):
                    raise UserError(
                        f"the corpus is empty: all that it holds is {count(len(bad), 'bad record')}; the first is "
                        f"{bad[0].where}: {bad[0].why}"
                    )
                split = choose_split(spills, config, inputs.has_validation, dropped)
                yield _Scan(folder, inputs, records, spills, split, workers, say, watch)
        except BaseException:
            if n_workers == 0:  # little is lost, and nothing left lying about
                remove(folder)
            raise


def _scan(folder: Path, config: TextChoice, inputs: Inputs, workers: Workers, watch: Watch) -> list[UnitRecord]:
    max_bad = _max_bad(config)
    report = folder.with_suffix(BAD_ENDING)
    report.unlink(missing_ok=True)
    spills = folder / "spills"
    spills.mkdir(exist_ok=True)
    found = {number: read_record(spills, number, source.identity) for number, source in enumerate(inputs.sources)}
    records = {number: record for number, record in found.items() if record is not None}
    tasks = [
        ScanTask(source, number, spills, inputs.near_duplicates, max_bad)
        for number, source in enumerate(inputs.sources)
        if number not in records
    ]
    watch.begin("reading", inputs.n_bytes, inputs.n_bytes - sum(task.source.n_bytes for task in tasks))
    try:
        _check_bad(list(records.values()), report, max_bad)
        for task, record in workers.run(scan_unit, tasks):
            records[task.number] = record
            _check_bad(list(records.values()), report, max_bad)
            watch.advance(task.source.n_bytes)
    finally:
        watch.end()
    return [records[number] for number in range(len(inputs.sources))]


def _check_bad(records: Sequence[UnitRecord], report: Path, max_bad: int) -> None:
    """Report bad records if there are too many of them."""
    if sum(len(record.bad) for record in records) > max_bad:
        report_bad(records, report, max_bad)


def _make(
    folder: Path, config: TextChoice, asked: TokenizerConfig | Tokenizer, ready: Tokenizer | None, scan: _Scan
) -> None:
    """Do pass 2, or what is left of it, and put the corpus in its place; the lock is held."""
    work = scan.folder / folder.name
    tokenizer = ready
    if tokenizer is None:
        assert isinstance(asked, BPEConfig)
        scan.say(f"building the tokenizer ({asked.type})")
        tokenizer = build_tokenizer(asked, lambda: _first_bytes(scan.texts("train"), TOKENIZER_BYTES))
    shutil.rmtree(work / TOKENIZER_FOLDER, ignore_errors=True)  # a killed process may have left half of it
    (work / TOKENIZER_FOLDER).mkdir(parents=True)
    tokenizer.save(work / TOKENIZER_FOLDER)
    with ThreadPoolExecutor(1) as pool:  # compressing lets go of the interpreter
        measured = pool.submit(measure_baselines, scan.texts("validation"))
        ranges = _tokenise(work, tokenizer, scan)
        baselines = measured.result()
    train = collect_split(work, "train", [record.train for record in ranges])
    validation = collect_split(work, "validation", [record.validation for record in ranges])
    max_bad = _max_bad(config)
    report_bad(scan.records, work / BAD_RECORDS, max_bad)
    files = file_records(work, corpus_files(work, (train, validation)), ranges)
    manifest = _manifest(config, asked, tokenizer, scan, train, validation, baselines, files, ranges)
    put_in_place(work, folder, manifest)
    for name, split in (("train", train), ("validation", validation)):
        scan.say(
            ", ".join(
                [
                    f"{name}: {count(split.n_documents, 'document')}",
                    count(split.n_bytes, "byte"),
                    count(split.n_tokens, "token"),
                ]
            )
        )


def _tokenise(work: Path, tokenizer: Tokenizer, scan: _Scan) -> list[RangeRecord]:
    itemsize = np.dtype(token_dtype(tokenizer.n_tokens)).itemsize
    numbers = range(scan.split.n_shards)
    found = {number: read_range(work, number, itemsize) for number in numbers}
    records = {number: record for number, record in found.items() if record is not None}
    in_process = scan.workers.n == 0
    tasks = [
        TokeniseTask(number, scan.spills, scan.split, work / TOKENIZER_FOLDER, work, in_process)
        for number in numbers
        if number not in records
    ]
    scan.watch.begin("tokenising", scan.split.n_bytes, sum(map(_bytes_of, records.values())))
    try:
        for task, record in scan.workers.run(tokenise_range, tasks):
            records[task.number] = record
            scan.watch.advance(_bytes_of(record))
    finally:
        scan.watch.end()
    return [records[number] for number in numbers]


def _bytes_of(record: RangeRecord) -> int:
    return record.train.n_bytes + record.validation.n_bytes


def _first_bytes(texts: Iterator[str], n_bytes: int) -> Iterator[str]:
    for text in texts:
        yield text
        n_bytes -= len(text.encode())
        if n_bytes <= 0:
            return


def _manifest(
    config: TextChoice,
    asked: TokenizerConfig | Tokenizer,
    tokenizer: Tokenizer,
    scan: _Scan,
    train: SplitRecord,
    validation: SplitRecord,
    baselines: Baselines,
    files: dict[str, Any],
    ranges: Sequence[RangeRecord],
) -> Manifest:
    dropped: dict[str, int] = {}
    for reason, n in (item for record in scan.records for item in record.dropped.items()):
        dropped[reason] = dropped.get(reason, 0) + n
    suspicious: Tallies = {}
    for record in scan.records:
        merge(suspicious, record.suspicious)
    for record in ranges:
        for side in (record.train, record.validation):
            if side.n_altered:
                merge(suspicious, {ALTERED: Tally(n=side.n_altered, first=side.altered)})
    n_near_duplicates = len(scan.split.dropped)
    n_read = sum(record.n_documents for record in scan.records)
    return Manifest(
        format=FORMAT,
        origin=scan.inputs.origin,
        corpus=config.model_dump(mode="json", include=DECISIVE),
        tokenizer=asked.model_dump(mode="json") if isinstance(asked, Config) else {"type": "given"},
        inputs=tuple(scan.inputs.records),
        inputs_fingerprint=scan.inputs.fingerprint,
        tokenizer_fingerprint=tokenizer.fingerprint,
        n_tokens=tokenizer.n_tokens,
        dtype=token_dtype(tokenizer.n_tokens),
        train=train,
        validation=validation,
        n_duplicates=n_read - scan.split.n_documents - n_near_duplicates,
        n_near_duplicates=n_near_duplicates,
        dropped=dict(sorted(dropped.items())),
        n_bad=sum(len(record.bad) for record in scan.records),
        skipped=scan.inputs.skipped,
        baselines=baselines,
        files=files,
        passed_over=scan.inputs.passed_over,
        suspicious=suspicious,
    )


def _check_split(corpus: PreparedCorpus, config: TextChoice, say: Say) -> None:
    """Name what is odd about the split, at each start; refuse one that leaves too little to train on."""
    by_file = isinstance(config, FilesText) and bool(config.validation)
    sizes = corpus.manifest.train.n_bytes, corpus.manifest.validation.n_bytes
    check_train_bytes(config, *sizes, by_file)
    for doubt in doubts(config, *sizes, by_file):
        say(f"warning: {doubt}")


def _reuse(folder: Path, config: TextChoice, verify: bool, progress: Say) -> PreparedCorpus | None:
    if not folder.exists():
        return None
    try:
        corpus = open_prepared(folder, verify, progress)
    except UserError as error:
        progress(f"not reused: {error}")
        return None
    max_bad = _max_bad(config)
    if corpus.manifest.n_bad > max_bad:
        raise UserError(
            f"{folder}: was prepared without {corpus.manifest.n_bad} bad records, more than data.max_bad = {max_bad}; "
            f"its bad_records.jsonl lists them"
        )
    return corpus


@contextmanager
def _explained(config: TextChoice, inputs: Inputs) -> Iterator[None]:
    """Say what is wrong with the place where corpora are kept."""
    place = config.prepared_dir
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno not in DISK_FULL:
            raise UserError(
                f"{place}: the prepared corpus cannot be written ({reason}); choose another data.prepared_dir"
            ) from error
        # The texts wait on the disk until their tokens are written too, of which each byte makes one at most.
        needed = 4 * inputs.n_bytes
        raise UserError(
            f"{place}: the prepared corpus cannot be written ({reason}); it needs up to about {needed:,} bytes and "
            f"{_free(place)}: make room there and run the same command again, or choose another data.prepared_dir"
        ) from error


def _free(place: Path) -> str:
    existing = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
    return f"the disk has {shutil.disk_usage(existing).free:,} free"


def _max_bad(config: TextChoice) -> int:
    """How many bad records may be left out."""
    return config.max_bad if isinstance(config, FilesText) else 0

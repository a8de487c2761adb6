"""Documents that nearly repeat each other: MinHash signatures, and bands of them that must agree.

The share of common word sequences of two documents, J = |A∩B|/|A∪B|, is the chance that a random hash has its least
value over both at a common one (Broder 1997). A signature holds 128 such minima, cut into b bands of r; two documents
are taken for one where any band agrees, with probability 1 - (1 - J^r)^b, an S-curve whose middle is at about
(1/b)^(1/r) (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4; so does FineWeb, arXiv 2406.17557, with
14 bands of 8). Groups are joined over all bands; of each the document with the lowest key stays.

A sequence is of words; in scripts that write no spaces (Chinese, Japanese, Thai, ...) of characters.

Signatures are made by rensa (``pip install 'isogloss[dedup]'``). Bands are compared one at a time, so that memory is
about 40 bytes for each document.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Int, UInt

from isogloss.config.base import UserError
from isogloss.data.prepare.config import NearDuplicatesConfig
from isogloss.data.prepare.spills import KEY, Spills

N_HASHES = 128
SEED = 1
WORDS_AT_A_TIME = 1 << 15
SEQUENCES = "words, and characters of scripts without spaces"
"""What is compared; it stands in the keys of corpora."""
UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"  # Tai Le, New Tai Lue, Tai Tham, Tai Viet
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3100-\u312f\ua000-\ua4cf"  # Bopomofo, Yi
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # ideographs
)
"""Scripts that write no spaces between words: each character counts as a word. Hangul and Tibetan do divide theirs."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def find_rensa() -> Any:
    """The library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import rensa
    except ImportError as error:
        raise UserError("data.near_duplicates needs rensa: pip install 'isogloss[dedup]'") from error
    return rensa


def bands_of(threshold: float) -> tuple[int, int]:
    """How many bands, and hashes in each, put the middle of the S-curve nearest to a threshold."""
    shapes = [(N_HASHES // r, r) for r in range(1, N_HASHES + 1)]
    return min(shapes, key=lambda shape: abs(0.5 - (1 - (1 - threshold ** shape[1]) ** shape[0])))


def signer(config: NearDuplicatesConfig) -> Callable[[list[bytes]], UInt[np.ndarray, "N bands"]]:
    """What makes the bands of some documents: equal texts always have equal ones."""
    find_rensa()
    return partial(_sign, config=config)


def _sign(texts: list[bytes], config: NearDuplicatesConfig) -> UInt[np.ndarray, "N bands"]:
    n_bands, n_rows = bands_of(config.threshold)
    signatures = np.empty((len(texts), N_HASHES), np.uint32)
    for signature, text in zip(signatures, texts, strict=True):
        sketch = find_rensa().RMinHash(N_HASHES, SEED)
        for sequences in _sequences(text.decode(), config.n_words):
            sketch.update(sequences)
        signature[:] = sketch.digest()
    used = np.ascontiguousarray(signatures[:, : n_bands * n_rows]).reshape(len(texts) * n_bands, n_rows)
    size = used.itemsize * n_rows
    data = used.tobytes()
    hashes = [hashlib.blake2b(data[at : at + size], digest_size=8).digest() for at in range(0, len(data), size)]
    return np.frombuffer(b"".join(hashes), "<u8").reshape(len(texts), n_bands)


def _sequences(text: str, n_words: int) -> Iterator[list[str]]:
    """The sequences of words, many at a time: a long document has millions."""
    words = (match[0].lower() for match in _WORD.finditer(text))
    kept = list(islice(words, n_words - 1))
    found = False
    while more := list(islice(words, WORDS_AT_A_TIME)):
        kept += more
        yield [" ".join(kept[i : i + n_words]) for i in range(len(more))]
        kept = kept[len(more) :]
        found = True
    if not found:  # too few words to compare by: it is like its own text alone
        yield [text]


def find_near_duplicates(spills: Spills, threshold: float) -> np.ndarray:
    """The keys (sorted, ``S16``) of the documents that a near duplicate with a lower key makes superfluous.

    A document of the validation files comes before any other.
    """
    n_bands, _ = bands_of(threshold)
    group = np.arange(spills.n_documents)
    for band in range(n_bands):
        hashes = np.concatenate([np.empty(0, np.uint64), *(run.band(band, n_bands) for run in spills.runs)])
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        group = _join(group, order[same], order[same + 1])
    members = np.flatnonzero(np.bincount(group, minlength=len(group))[group] > 1)
    keys, roles = _keys_and_roles(spills, members)
    groups = group[members]
    order = np.lexsort((_rank(keys), roles, groups))
    groups, keys = groups[order], keys[order]
    is_first = np.ones(len(groups), bool)
    is_first[1:] = groups[1:] != groups[:-1]
    kept = keys[is_first][np.cumsum(is_first) - 1]
    return np.unique(keys[keys != kept])


def _join(group: Int[np.ndarray, "N"], a: Int[np.ndarray, "E"], b: Int[np.ndarray, "E"]) -> Int[np.ndarray, "N"]:
    """Merge the groups of each pair; a group is named by its lowest member."""
    while True:
        low, high = np.minimum(group[a], group[b]), np.maximum(group[a], group[b])
        apart = low != high
        if not apart.any():
            return group
        a, b = a[apart], b[apart]
        np.minimum.at(group, high[apart], low[apart])
        while (further := group[group] != group).any():
            group[further] = group[group[further]]


def _keys_and_roles(spills: Spills, members: Int[np.ndarray, "N"]) -> tuple[np.ndarray, Int[np.ndarray, "N"]]:
    keys, roles, before = [np.empty(0, KEY)], [np.empty(0, np.int64)], 0
    for run in spills.runs:
        mine = members[np.searchsorted(members, before) : np.searchsorted(members, before + run.n_documents)] - before
        keys.append(run.keys[mine])
        roles.append(np.full(len(mine), not run.is_validation, np.int64))
        before += run.n_documents
    return np.concatenate(keys), np.concatenate(roles)


def _rank(keys: np.ndarray) -> Int[np.ndarray, "N"]:
    return np.unique(keys, return_inverse=True)[1]

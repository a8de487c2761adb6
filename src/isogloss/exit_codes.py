"""The exit codes of all verbs: no other module has the number of one.

``EXITS`` is the table of docs/launch.md; a test compares it with the verbs.
"""

import signal
from dataclasses import dataclass

OK = 0
DEFECT = 1
"""A defect of ours in any verb but the audit, or an unforeseen end: a traceback says where."""
FAILED = 1
"""What a verb checks does not hold."""
USAGE = 2
NOT_JUDGED = 3
AUDIT_DEFECT = 4
HUNG = 70
"""EX_SOFTWARE of sysexits.h."""
REQUEUE = 75
"""EX_TEMPFAIL of sysexits.h: failed for now, try again."""
SIGNALLED = 128
"""Plus the signal's number, as of a shell."""
READER_GONE = SIGNALLED + getattr(signal, "SIGPIPE", 13)

ALL = "every verb"


@dataclass(frozen=True)
class Exit:
    """One row of the table.

    Args:
        code: as a shell shows it.
        verbs: which end so, without ``isogloss``; or all.
        meaning: what has happened.
    """

    code: str
    verbs: tuple[str, ...]
    meaning: str


EXITS = (
    Exit(f"{OK}", (ALL,), "finished; nothing that was checked fails"),
    Exit(f"{FAILED}", ("init audit",), "it has findings as grave as `--fail-on` says, or graver"),
    Exit(f"{FAILED}", ("init plan",), "with `--strict`: there is a warning"),
    Exit(f"{FAILED}", ("init verify",), "weights or signals are not the plan's, or a fingerprint differs; with "
         "`--strict` also: there is a warning"),
    Exit(f"{FAILED}", ("init coordinate",), "the scheme does not keep its promises"),
    Exit(f"{FAILED}", ("estimate",), "it does not fit into the GPUs' memory"),
    Exit(f"{FAILED}", ("checkpoint verify",), "a checkpoint is not whole"),
    Exit(f"{DEFECT}", (f"{ALL} but init audit",), "a defect of Isogloss, or a rank that ended in an unforeseen way; "
         "the traceback says where"),
    Exit(f"{USAGE}", (ALL,), "something that you can mend; the message says what"),
    Exit(f"{NOT_JUDGED}", ("init audit",), "no findings, but not all could be judged; the output says what"),
    Exit(f"{AUDIT_DEFECT}", ("init audit",), "a defect of the audit; the traceback says where"),
    Exit(f"{HUNG}", ("train", "launch local"), "ranks waited for each other longer than `parallel.timeout`"),
    Exit(f"{REQUEUE}", ("train", "launch local"), "saved, or nothing to save yet: run the same command again"),
    Exit(f"{SIGNALLED} + n", (ALL,), "ended by signal n; the same command goes on"),
    Exit(f"{READER_GONE}", (ALL,), "the reader of its output has gone, as after `| head`"),
)  # fmt: skip


def exits_of(verb: str) -> set[str]:
    """The codes that a verb alone gives a meaning to."""
    return {row.code for row in EXITS if verb in row.verbs}

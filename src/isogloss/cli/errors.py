"""Which errors the user can mend, and what to tell of them."""

import errno


def explain(error: Exception) -> str | None:
    """What to tell of an error that the user can mend; ``None`` for a defect of ours."""
    from isogloss.config.base import UserError
    from isogloss.durable import DISK_FULL

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"the disk is full ({error.filename or 'while writing'}). Free some space and run the same command again"
    unusable = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)
    if isinstance(error, OSError) and error.errno in unusable:
        return f"{error.filename}: {error.strerror}. Change its permissions, or choose another place"
    # PyTorch's, by name and text: it may not have been imported, and on a CPU it raises a bare RuntimeError.
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if out_of_memory or "can't allocate memory" in str(error):
        first_line = str(error).partition("\n")[0]
        return f"out of memory; lower train.micro_batch_size, data.seq_len or the model's size. ({first_line})"
    return None

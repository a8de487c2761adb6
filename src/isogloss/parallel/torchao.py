"""The import of torchao, without its warnings."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_OF_NO_CONCERN = {
    # Kernels for other GPUs and formats, none of which float8 training calls: it calls PyTorch's own.
    "torchao": ("Failed to load ", "Skipping import of cpp extensions"),
    "torchao.kernel.intmm": ("Warning: Detected no triton",),
    # From PyTorch to torchao's authors.
    "torch.utils._pytree": ("<enum 'KernelPreference'>", "<enum 'ScaleCalculationMode'>"),
}


@contextmanager
def quiet_torchao() -> Iterator[None]:
    """Without what torchao's import has to say to no user of ours; transformers imports it where it is installed."""

    def concerns(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_OF_NO_CONCERN[record.name])

    loggers = [logging.getLogger(name) for name in _OF_NO_CONCERN]
    for logger in loggers:
        logger.addFilter(concerns)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(concerns)

"""A bar in a terminal for what takes long: how far it is, how fast it goes, how long it will take."""

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from isogloss.terminal import PlainColumn, open_progress


class Bar:
    """Shows the stages of preparing (a ``Watch``)."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, stage: str, n_bytes: int, done: int) -> None:
        """Show a stage of ``n_bytes``, of which some are done already."""
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._progress = open_progress(self._console, [PlainColumn("{task.description}"), *columns])
        self._task = self._progress.add_task(stage, total=n_bytes, completed=done)
        self._progress.start()

    def advance(self, n_bytes: int) -> None:
        """So much more is done."""
        self._progress.update(self._task, advance=n_bytes)

    def end(self) -> None:
        """Take the bar away."""
        self._progress.stop()

"""The verbs of the command line: parsing and printing only, every verb is one call into the library.

This room alone delays its imports, so that ``--help`` does not wait for PyTorch. What a user can mend ends with one
message and exit code 2.
"""

import sys
import traceback
from typing import Annotated

import typer

from isogloss.cli import runs, studies
from isogloss.cli.checkpoint import checkpoint_app
from isogloss.cli.config import config_app
from isogloss.cli.data import data_app
from isogloss.cli.errors import asked_to_leave, complain, explain, ignore_requests, leave, one_of_many
from isogloss.cli.estimate import estimate
from isogloss.cli.init import init_app
from isogloss.cli.launch import launch_app
from isogloss.cli.tokenizer import tokenizer_app
from isogloss.exit_codes import DEFECT, OK, READER_GONE, USAGE
from isogloss.streams import say

app = typer.Typer(
    name="isogloss",
    help="Pre-train and study language models; every weight starts at a scale the program can state and check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(init_app, name="init")
app.add_typer(launch_app, name="launch")
app.add_typer(tokenizer_app, name="tokenizer")
for verb in (runs.train, runs.generate, runs.export, runs.recipes, estimate):
    app.command()(verb)
app.command("eval")(runs.evaluate)
for verb in (studies.coordinate, studies.lr_sweep, studies.compare):
    init_app.command(verb.__name__.replace("_", "-"))(verb)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Pre-train and study language models; every weight starts at a scale the program can state and check."""
    if show:
        from isogloss import __version__

        say(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; exit 2 with one message for what a user can mend."""
    try:
        try:
            app()
        except SystemExit:
            if sys.stdout is not None:
                sys.stdout.flush()  # not when the interpreter ends: here it is told what cannot be written
            raise
    except BrokenPipeError:
        leave(READER_GONE)
    except Exception as error:
        message = explain(error)
        if message is None:
            if not one_of_many() and not hasattr(error, "exit_code"):
                raise
            traceback.print_exc()
        else:
            complain(message)
        leave(getattr(error, "exit_code", DEFECT if message is None else USAGE))
    except BaseException as error:
        if (code := getattr(error, "exit_code", None)) is not None and not isinstance(error, SystemExit):
            leave(asked_to_leave(code))
        if isinstance(error.__context__, BrokenPipeError):  # typer's and rich's answer to it is 1
            leave(READER_GONE)
        if isinstance(error, SystemExit) and error.code in (None, 0):
            leave(OK)
        ignore_requests()
        raise

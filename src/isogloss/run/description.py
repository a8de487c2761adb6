"""The files that say what a run is: written as it begins, and again where somebody removed them while it runs."""

from contextlib import suppress

from isogloss.build import PlannedModel, plan_model
from isogloss.config.base import UserError
from isogloss.data.corpus import Corpus
from isogloss.data.tokenizers.loading import keep_tokenizer, load_tokenizer
from isogloss.run.folder import RunFolder
from isogloss.run.place import settle_place
from isogloss.run.session import Session
from isogloss.train.display import Display
from isogloss.train.metrics import Metrics


def keep_description(session: Session, planned: PlannedModel, display: Display) -> None:
    """Write the files that describe the run: recipe, place, machine, plan and tokenizer."""
    recipe, folder = session.recipe, session.folder
    folder.save_recipe(recipe)
    settle_place(folder, display.say)
    folder.save_json("machine.json", session.machine.as_dict())
    folder.save_plan([entry.row() for entry in planned.plan.values()], session.initial)
    _copy_tokenizer(session.corpus, folder)


def mend_folder(session: Session, metrics: Metrics, display: Display) -> bool:
    """Notice that the run's folder, its lock or its metrics were removed, and make them again. On the first rank.

    Returns:
        Whether a checkpoint is to be saved at once: those that were there may be gone.

    Raises:
        UserError: another process has taken the folder meanwhile.
    """
    folder = session.folder
    retaken = folder.retake()
    if retaken:
        keep_description(session, plan_model(session.recipe.model, session.recipe.init), display)
        display.say(
            f"warning: {folder.path}, or its lock, was removed or renamed while the run writes there; what describes "
            "the run is written again, and a checkpoint follows"
        )
    if metrics.reopen():
        display.say(f"warning: {folder.metrics_file} was removed while the run writes it; it is written again, whole")
    return retaken


def _copy_tokenizer(corpus: Corpus, folder: RunFolder) -> None:
    """Copy the tokenizer into the run's folder, whole or not at all."""
    with suppress(UserError):  # a damaged one is written anew
        kept = load_tokenizer(folder.tokenizer, is_checked=True) if folder.tokenizer.is_dir() else None
        if kept is not None and kept.fingerprint == corpus.tokenizer.fingerprint:
            return
    keep_tokenizer(corpus.tokenizer, folder.tokenizer)

"""What a run says at its end."""

import shlex
from pathlib import Path

from isogloss.recipe import load_recipe
from isogloss.run.finish import next_commands
from isogloss.run.folder import RunFolder


def test_what_may_be_done_next_is_as_a_shell_takes_it(tiny: Path) -> None:
    folder = RunFolder(Path("my runs/été"))
    recipe = load_recipe(str(tiny), ["""watch.prompts=["it's a "]"""])
    words = [shlex.split(command) for command in next_commands(folder, recipe)]
    assert words[0] == ["isogloss", "generate", "my runs/été", "it's a "]
    assert words[1] == ["isogloss", "eval", "my runs/été", "FILE.txt"]
    assert words[2] == ["isogloss", "init", "plan", "my runs/été/recipe.yaml"]
    assert words[3][:3] == ["isogloss", "train", "my runs/été/recipe.yaml"]

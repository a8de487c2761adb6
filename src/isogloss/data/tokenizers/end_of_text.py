"""The token that opens documents: by its usual names, or as the user says, which is saved with it."""

import json
from pathlib import Path
from typing import Any

from isogloss.config.base import UserError
from isogloss.config.problems import did_you_mean
from isogloss.config.stored import parse_json, read_bounded
from isogloss.data.tokenizers.base import Tokenizer
from isogloss.durable import write_whole

END_OF_TEXT_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<\uff5cend▁of▁sentence\uff5c>",
    "</s>",
    "<eos>",
    "<|begin_of_text|>",
    "<\uff5cbegin▁of▁sentence\uff5c>",
    "<s>",
    "<bos>",
)
"""The special token that opens documents is the first of these that the file has."""
GIVEN = "end_of_text.json"


def find_end_of_text(spec: dict[str, Any], origin: str, given: str | int | None) -> tuple[int, bool]:
    """The id of the token that opens documents, and whether the file declares it as special.

    Args:
        spec: the content of a ``tokenizer.json``.
        origin: where it is from, for the messages.
        given: its text or id, if the user says which.

    Raises:
        UserError: there is no such token, or none of the usual names.
    """
    added = {token["content"]: token for token in spec.get("added_tokens") or []}
    if given is None:
        for name in END_OF_TEXT_NAMES:
            if name in added and added[name]["special"]:
                return added[name]["id"], True
        others = [name for name, token in added.items() if token["special"]]
        has = f" (its special tokens are {', '.join(others[:8])})" if others else ""
        raise UserError(
            f"{origin}: no special token to open documents with{has}; it needs one of {', '.join(END_OF_TEXT_NAMES)}, "
            "or set tokenizer.end_of_text"
        )
    names = spec["model"]["vocab"] | {name: token["id"] for name, token in added.items()}
    if isinstance(given, str):
        if given not in names:
            near = did_you_mean(given, list(added) or list(names)[:1000])
            raise UserError(f"{origin}: tokenizer.end_of_text {given!r} is none of its tokens{near}")
        chosen = names[given]
    elif given in names.values():
        chosen = given
    else:
        raise UserError(f"{origin}: tokenizer.end_of_text {given} is none of its ids")
    return chosen, any(token["id"] == chosen and token["special"] for token in added.values())


def declare_special(spec: dict[str, Any], chosen: int) -> None:
    """Make a token special, so that no text is cut into it."""
    added = spec.setdefault("added_tokens", []) or []
    spec["added_tokens"] = added
    for token in added:
        if token["id"] == chosen:
            token["special"] = True
            return
    content = next(name for name, rank in spec["model"]["vocab"].items() if rank == chosen)
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added.append({"id": chosen, "content": content, "special": True, **plain})


def check_unwritten(tokenizer: Tokenizer, given: str | int | None, content: str, origin: str) -> None:
    """Make sure that a text does not become the token that opens documents.

    Raises:
        UserError: its own text does.
    """
    for text in (content, content.replace("▁", " "), f"a {content}", f"a{content}b"):
        if tokenizer.end_of_text in tokenizer.encode(text):
            raise UserError(
                f"{origin}: tokenizer.end_of_text {given!r} is a token of ordinary text: documents that hold it would "
                "be cut there; choose one that no text becomes"
            )


def save_given(folder: Path, given: str | int | None) -> None:
    """Write the user's choice beside the tokenizer's file; without one, none of a former tokenizer stays there."""
    if given is None:
        (folder / GIVEN).unlink(missing_ok=True)
    else:
        write_whole(folder / GIVEN, json.dumps(given).encode())


def load_given(folder: Path) -> str | int | None:
    """The choice that was saved with a tokenizer.

    Raises:
        UserError: what is there is no token.
    """
    path = folder / GIVEN
    try:
        given = parse_json(read_bounded(path), str(path))
    except FileNotFoundError:
        return None
    if not isinstance(given, str | int) or isinstance(given, bool):
        raise UserError(f"{path}: neither a token nor an id")
    return given

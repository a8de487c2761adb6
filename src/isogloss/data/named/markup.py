"""Prose out of HTML fragments such as documentation strings."""

import re
from html.parser import HTMLParser

BLOCKS = {
    "p", "div", "ul", "ol", "dl", "dt", "dd", "table", "tr", "section", "note", "important", "fullname", "title",
    "para", "pre", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6",
}  # fmt: skip
INLINE = {
    "a", "abbr", "b", "body", "caution", "code", "em", "font", "html", "i", "kbd", "link", "replaceable", "s", "samp",
    "small", "span", "strong", "sub", "sup", "tbody", "td", "th", "thead", "tt", "u", "var", "xhtml",
}  # fmt: skip
UNSEEN = {"script", "style", "head"}


def prose(markup: str) -> str:
    """The text, a line for each paragraph or item, ``- `` before items; what only looks like a tag is kept."""
    reader = _Reader()
    reader.feed(markup)
    reader.close()
    lines = (re.sub(r"\s+", " ", line).strip() for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line and line != "-")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = 0
        self._after_item = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNSEEN:
            self._unseen += 1
        elif tag == "li":
            self.parts.append("\n- ")
            self._after_item = True
        elif tag == "br" or tag in BLOCKS:
            if not self._after_item:  # <li><p>: one line
                self.parts.append("\n")
        elif tag not in INLINE:
            self._text(self.get_starttag_text() or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br" or tag in BLOCKS:
            self.parts.append("\n")
        elif tag not in INLINE | UNSEEN:
            self._text(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in UNSEEN:
            self._unseen = max(0, self._unseen - 1)
        elif tag in BLOCKS or tag == "li":
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        self._text(re.sub(r"\s+", " ", data))

    def _text(self, text: str) -> None:
        if not self._unseen:
            self.parts.append(text)
            if text.strip():
                self._after_item = False

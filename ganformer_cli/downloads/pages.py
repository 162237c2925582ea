"""Web pages that arrive instead of a file: recognized, and read for what they say."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

SNIFFED = 512  # bytes that tell a web page from a file
_BEGINNINGS = (b"<!doctype html", b"<html", b"<head")


def looks_like_page(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a web page, whatever its server says of it."""
    return head[:SNIFFED].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_BEGINNINGS)


def read_page(content: bytes) -> Page:
    """A page, or what there is of it."""
    page = Page()
    page.feed(content.decode("utf-8", errors="replace"))
    page.close()
    return page


@dataclass
class PageLink:
    """A form or a link of a page."""

    address: str
    for_download: bool = False
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """The title, text, forms and links of a page of Drive."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.targets: list[PageLink] = []
        self._form: PageLink | None = None
        self._inside = ""  # title, script or style
        self._title: list[str] = []
        self._text: list[str] = []

    @property
    def title(self) -> str:
        return " ".join("".join(self._title).split())[:80]

    @property
    def speaks_of_quota(self) -> bool:
        text = " ".join("".join([*self._title, " ", *self._text]).split()).lower()
        return any(words in text for words in ("quota exceeded", "download quota", "too many users"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in {"title", "script", "style"}:
            self._inside = tag
        elif tag == "form":
            self._form = PageLink(given.get("action", ""), given.get("id") in {"download-form", "downloadForm"})
            self.targets.append(self._form)
        elif tag == "input" and self._form is not None and given.get("type") == "hidden" and "name" in given:
            self._form.fields[given["name"]] = given.get("value", "")
        elif tag == "a" and "href" in given:
            self.targets.append(PageLink(given["href"]))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""
        elif tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self._title.append(data)
        elif not self._inside:
            self._text.append(data)

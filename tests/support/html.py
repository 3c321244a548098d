"""Reading HTML pages."""

import re
from html.parser import HTMLParser
from pathlib import Path


class Page(HTMLParser):
    """All tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def assert_self_contained(path: Path, images: int) -> str:
    """The text of a file that needs no other one, with a description of each of its images."""
    text = path.read_text("utf-8")
    tags = Page(text).tags
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) == images
    assert all(picture["src"].startswith("data:image/png;base64,") and len(picture["alt"]) > 20 for picture in pictures)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    assert not re.search(r"https?://|url\(|@import", text)
    return text

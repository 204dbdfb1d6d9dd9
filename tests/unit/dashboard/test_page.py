"""The page's files: nothing from outside, nothing that would turn a table's name into markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin

import pytest

from cdc.dashboard.page import assets

CONTENT = {asset.path: asset.content.decode() for asset in assets()}


class Tags(HTMLParser):
    """Every start tag with its attributes, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/page.js", "/dashboard/page.css", "/dashboard/icon.svg"])
def test_a_file_asks_nothing_of_other_hosts(path: str) -> None:
    text = CONTENT[path].replace('xmlns="http://www.w3.org/2000/svg"', "")

    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)


def test_every_address_of_the_page_is_served() -> None:
    served = {*CONTENT, "/health", "/metrics", "/api/status"}
    links = [attributes.get("href") or attributes.get("src") for _, attributes in Tags(CONTENT["/dashboard"]).tags]

    found = {urljoin("/dashboard", link) for link in links if link}

    assert found
    assert found <= served


def test_the_page_has_no_inline_script_style_or_handler() -> None:
    """The content security policy would refuse them."""
    for tag, attributes in Tags(CONTENT["/dashboard"]).tags:
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


@pytest.mark.parametrize(
    "way", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc", ".style"]
)
def test_the_script_builds_no_markup_out_of_text(way: str) -> None:
    assert way not in CONTENT["/dashboard/page.js"]


def test_every_element_that_the_script_looks_up_is_in_the_page() -> None:
    ids = {attributes.get("id") for _, attributes in Tags(CONTENT["/dashboard"]).tags}

    asked = set(re.findall(r'byId\("([^"]+)"\)', CONTENT["/dashboard/page.js"]))

    assert asked
    assert asked <= ids

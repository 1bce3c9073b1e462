"""What GitHub makes of Markdown: the HTML of its own parser, taken apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import cmarkgfm
from cmarkgfm.cmark import Options

from pytest_carbon.text import NBSP

ALLOWED = frozenset(
    "a code details h3 li p pre strong sub summary table tbody td th thead tr ul".split()  # noqa: SIM905
)
"""The tags that our Markdown makes."""
LIVE = re.compile(
    r"@\w|#\d|(?i:\bgh-\d)|[!%$]\d|\b[A-Z][A-Z0-9]+-\d|(?<![0-9a-zA-Z])[0-9a-f]{7,40}(?![0-9a-zA-Z])"
    r"|:[\w+-]+:|\$|(?i:www\.|https?://)|~\w|&\d"
)
"""What GitHub or GitLab turns into a mention, a reference, an emoji, mathematics or a link, outside of code."""
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script>",
    "</summary></details>",
    "<!-- pytest-carbon:other -->",
    "-->",
    "{{7*7}}",
    "@everyone",
    "]]>",
    "::error::",
    "\n",
    "\r\n# heading\n",
    "\n/close\n",
    "| a | b |",
    "\\|",
    "`",
    "``` ",
    "~~~",
    "\u202eevil\u202c",
    "\u05d0\u05d1\u05d2",
    "#123",
    "GH-7",
    "JIRA-42",
    "!5 %6 $7 &8 ~bug",
    "owner/repo#1",
    "c0ffee1234567",
    "https://example.org/?a=b",
    "www.example.org",
    "a@example.org",
    "![x](https://example.org/x.png)",
    "[x](javascript:alert(1))",
    "[x]: https://example.org",
    "[^1]",
    "- [ ] task",
    "1. one",
    "---",
    "***",
    ":tada:",
    "$x^2$",
    "&lt;b&gt;",
    "&#64;here",
    "\x1b[31m",
    "\x00",
    "    indented",
    "\\",
)


class Rendered(HTMLParser):
    """The tags, the links, the text outside of code, and the cells of tables."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.outside_code = ""
        self.cells: list[str] = []
        self._within: list[str] = []
        self.feed(cmarkgfm.github_flavored_markdown_to_html(markdown, Options.CMARK_OPT_UNSAFE))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._within.append(tag)
        self.attributes |= {f"{tag}.{name}" for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._within.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        self.outside_code += "\n" if {"code", "pre"} & set(self._within) else data
        if {"td", "th"} & set(self._within):
            self.cells[-1] += data.replace(NBSP, " ")


def check(markdown: str, *, link: str | None = None) -> Rendered:
    """Assert that nothing but ours is live, and return what it is rendered as."""
    page = Rendered(markdown)
    assert set(page.tags) <= ALLOWED
    assert page.attributes <= {"td.align", "th.align", "pre.lang", "code.class", "a.href"}
    assert page.links == ([] if link is None else [link])
    assert (live := LIVE.search(page.outside_code)) is None, live
    assert not page._within
    assert markdown.replace("\n", "").replace(NBSP, "").isprintable()
    return page

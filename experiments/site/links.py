"""Does every link of the built site lead somewhere, and does nothing come from elsewhere?

Nor may a signature of the reference have a private name in it, which no reader can look up.

`python experiments/site/links.py site` reads the pages that `make docs` has built. Pages, anchors
and files that are linked must be there; fonts, scripts, styles and pictures must be the site's
own, so that it works where there is no network. Pages of other sites are not called.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SIGNATURE = re.compile(r'<div class="doc-signature.*?</div>', re.DOTALL)
PRIVATE = re.compile(r'<span class="n">(_[A-Za-z]\w*)</span>')


class Page(HTMLParser):
    """A page's anchors, links, and what a browser loads with it."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.signatures: list[str] = SIGNATURE.findall(text)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(given["href"])
        if tag in ("img", "script", "iframe", "source") and "src" in given:
            self.loaded.append(given["src"])


def faults(site: Path) -> Iterator[str]:
    """What is wrong with a built site, a line each."""
    pages = {f: Page(f.read_text()) for f in sorted(site.rglob("*.html"))}
    for file, page in pages.items():
        here = file.relative_to(site)
        for signature in page.signatures:
            for name in sorted({*PRIVATE.findall(signature)}):
                yield f"{here} has the private name {name} in a signature"
        for target in page.loaded + page.links:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                if target in page.loaded and url.scheme != "data":
                    yield f"{here} loads {target} from elsewhere"
                continue
            # The page of what is not found is shown at any address: its links begin at the root.
            start = site if url.path.startswith("/") else file.parent
            path = (start / unquote(url.path).lstrip("/")).resolve()
            path = file if not url.path else path
            path = path / "index.html" if path.is_dir() else path
            if not path.exists():
                yield f"{here} links to {target}, which is not there"
            elif url.fragment and path in pages:
                if unquote(url.fragment) not in pages[path].anchors | {"__top"}:
                    yield f"{here} links to {target}, whose anchor is not there"


def main() -> int:
    """Print the faults; the exit status says whether there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    found = list(faults(parser.parse_args().site.resolve()))
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

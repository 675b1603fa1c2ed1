"""The pages beside the README are on the site too, and links lead to where they are there.

MkDocs reads these hooks (mkdocs.yml). A page of docs/ links to `../README.md`, as GitHub wants
it; on the site that page is project/readme.md. What is no page (LICENSE, CITATION.cff, a file
of the source) is named on the site, and not linked.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PROJECT = {
    f"{name}.md": f"project/{name.lower()}.md"
    for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")
}


def on_files(files, config):
    """Add the pages beside the README."""
    for name, place in PROJECT.items():
        text = (ROOT / name).read_text()
        files.append(File.generated(config, place, content=text))
    return files


def site_page(target: str) -> str | None:
    """Where a page of the repository, by its path in it, is on the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return PROJECT.get(target)


def on_page_content(html, page, config, files):
    """A picture leads to itself, where it is as large as it is; what belongs together does."""
    html = re.sub(r'(<img [^>]*src="([^"]+)"[^>]*>)', r'<a href="\2">\1</a>', html)
    html = re.sub(r"<code>[^<]*</code>", together, html)
    # Without it lines of a narrow cell end between a number and its interval.
    return html.replace(" ± ", "\u00a0±\u00a0")


def together(code: re.Match[str]) -> str:
    """Code in which no line ends behind the dashes of an option."""
    option = r"(?<![\w-])--?[A-Za-z][\w-]*"
    return re.sub(option, r'<span class="option">\g<0></span>', code[0])


def on_page_markdown(markdown, page, config, files):
    """Lead every link of a page to its place on the site."""
    here = page.file.src_uri
    repository = {place: name for name, place in PROJECT.items()}
    folder = posixpath.dirname(repository.get(here, f"docs/{here}"))

    def moved(link: re.Match[str]) -> str:
        text, target, anchor = link["text"], link["target"], link["anchor"] or ""
        place = site_page(posixpath.normpath(posixpath.join(folder, target)))
        if place is None:
            return text
        place = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"[{text}]({place}{anchor})"

    link = r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^):#\s]+)(?P<anchor>#[^)]*)?\)"
    # What stands in a block of code is no link.
    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(p if p.startswith("```") else re.sub(link, moved, p) for p in parts)

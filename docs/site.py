"""Hooks of mkdocs.yml: links to files that the site has not lead to the repository; docs/walks/ are tutorials."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

# Files of docs/ that the site shows elsewhere.
MOVED = {"library.md": "api.md"}


def on_config(config: Any) -> Any:
    """Add the walks, newcomers' first hours, to the tutorials; mkdocs calls this."""
    walks = sorted(Path(config["docs_dir"]).glob("walks/*.md"))
    tutorials = next(part["Tutorials"] for part in config["nav"] if "Tutorials" in part)
    tutorials += [f"walks/{path.name}" for path in walks]
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page; mkdocs calls this."""
    folder = PurePosixPath(page.file.src_uri).parent
    return relinked(markdown, folder, config["repo_url"], {file.src_uri for file in files})


def relinked(markdown: str, folder: PurePosixPath, repository: str, pages: set[str]) -> str:
    """A page whose links lead to pages of the site, or to the repository.

    Args:
        markdown: Of the page.
        folder: Of the page in docs/.
        repository: Address of the repository.
        pages: Files of the site, by path in docs/.
    """

    def link(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = _joined(folder / target)
        if path in MOVED:
            return f"]({'../' * len(folder.parts)}{MOVED[path]})"
        if path in pages:
            return match[0]
        inside = path.removeprefix("../") if path.startswith("../") else f"docs/{path}"
        return f"]({repository}/blob/main/{inside}{anchor})"

    return re.sub(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)]*)?\)", link, markdown)


def _joined(path: PurePosixPath) -> str:
    """A path without inner ``..``."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)

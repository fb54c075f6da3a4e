"""Before a release: `public.py OWNER/NAME REVISION` puts the repository's address where pages have none.

Files of ``NAMED`` name OWNER/delrec-lite, because a copy of the sources does not know who publishes it. Links and
pictures of README.md become absolute, because the package index shows it without the other files.
"""

import re
import sys
from pathlib import Path

PLACEHOLDER = "OWNER/delrec-lite"
NAMED = ("pyproject.toml", ".github/ISSUE_TEMPLATE/config.yml", "mkdocs.yml", "recipe/recipe.yaml")


def absolute(text: str, repository: str, revision: str) -> str:
    """A page whose relative links lead to a repository on GitHub.

    Args:
        text: Markdown.
        repository: ``owner/name``.
        revision: A tag or commit.
    """

    def link(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        view = f"raw.githubusercontent.com/{repository}" if picture else f"github.com/{repository}/blob"
        return f"{picture}[{label}](https://{view}/{revision}/{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)]+)\)", link, text)


def main() -> None:
    """Rewrite the files of the checkout."""
    repository, revision = sys.argv[1:3]
    for name in NAMED:
        path = Path(name)
        path.write_text(path.read_text(encoding="utf-8").replace(PLACEHOLDER, repository), encoding="utf-8")
    readme = Path("README.md")
    readme.write_text(absolute(readme.read_text(encoding="utf-8"), repository, revision), encoding="utf-8")


if __name__ == "__main__":
    main()

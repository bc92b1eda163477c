"""The site's pages are the repository's own files, each under its path there, so that links work in both places."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "README.zh.md", "*/README.md", "datasets/*/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"\]\(([^)#:\s]+)[^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages, and what they show or link to; of what MkDocs found, the theme's."""
    pages = {path for pattern in (*PAGES, "docs/**/*.md") for path in ROOT.glob(pattern)}
    linked = {(page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text("utf-8"))}
    shown = {path for path in pages | linked if path.is_file() and path.is_relative_to(ROOT)}
    names = sorted(path.relative_to(ROOT).as_posix() for path in shown)
    own = [File(name, str(ROOT), config.site_dir, config.use_directory_urls) for name in names]
    return Files([*(file for file in files if file.src_dir != config.docs_dir), *own])

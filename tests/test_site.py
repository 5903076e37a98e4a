"""The site of docs/: it builds without a warning, and has the pages, the notebooks' pictures and the reference."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    # -W: a link that leads nowhere, a page that none leads to, a reference without its object are errors.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there_and_found_from_the_first(site):
    first = (site / "index.html").read_text()
    for page in (*DOCS.glob("*.md"), *DOCS.glob("*.ipynb")):
        assert (site / f"{page.stem}.html").is_file()
        assert page.stem == "index" or f'href="{page.stem}.html"' in first, page


@pytest.mark.slow
def test_links_between_pages_lead_to_pages(site):
    """Those to Markdown files, to RECORDS.md beside docs/ and to code too, which are elsewhere on a site."""
    for page in site.rglob("*.html"):
        for link in re.findall(r'href="([^"#:?]+)(?:[?#][^"]*)?"', page.read_text()):
            assert not link.endswith((".md", ".py")), (page.name, link)
            assert (page.parent / link).exists(), (page.name, link)


@pytest.mark.slow
def test_notebooks_are_shown_with_their_pictures(site):
    for name in ("article", "research"):
        assert re.search(r'<img[^>]* src="_images/[0-9a-f]+\.png"', (site / f"{name}.html").read_text())


@pytest.mark.slow
def test_the_reference_has_signatures_docstrings_and_keys(site):
    assert "Trains a config in a folder" in (site / "api/vit_jax.html").read_text()
    assert 'id="vit_jax.steps.step.train_step"' in (site / "api/steps.html").read_text()
    assert "Newton-Schulz" in (site / "api/config.html").read_text()


@pytest.mark.slow
def test_it_can_be_searched(site):
    index = (site / "searchindex.js").read_text()
    assert '"attention"' in index or "attention:" in index

"""HTML as values: text is escaped unless it is HTML already, so that nothing in a run's files becomes markup."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from vit_jax.page.style import STYLE

_VOID = ("br", "img", "meta", "wbr")  # elements without an end tag
# A browser that knows no better than the page can't fetch anything either.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Html(str):
    """Markup. Any other text is escaped where it is put into an element."""


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it; `id` is what the table of contents points at."""

    id: str
    title: str
    body: Html
    parts: tuple["Section", ...] = ()


def element(tag: str, *children: str, **attributes: object) -> Html:
    """<tag attributes>children</tag>. `class_` is written class, `aria_label` aria-label; None leaves one out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_escaped(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    start = f"<{tag}{written}>"
    return Html(start) if tag in _VOID else Html(f"{start}{join(children)}</{tag}>")


def join(children: Iterable[str]) -> Html:
    """One after the other, those that are no HTML escaped."""
    return Html("".join(child if isinstance(child, Html) else _escaped(child) for child in children))


def _escaped(text: str) -> str:
    # Half a surrogate pair, which JSON can bring, can't be written to a file.
    return escape(text.encode("utf-8", "replace").decode())


def paragraph(*children: str, kind: str | None = None) -> Html:
    return element("p", *children, class_=kind)


def small(text: str) -> Html:
    """A second line below a figure."""
    return element("span", text, class_="small")


def two_lines(first: str, second: str) -> Html:
    return join([first, " ", small(second)])


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> Html:
    """A table in a box of its own that scrolls where it is too wide; the first cell of each row is its heading.

    A row of one cell is a heading over those that follow.
    """
    body = []
    for first, *cells in rows:
        if cells:
            body.append(element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in cells)))
        else:
            body.append(element("tr", element("th", first, scope="rowgroup", colspan=len(head), class_="group")))
    heading = element("thead", element("tr", *(element("th", name, scope="col") for name in head)))
    return scrolling(element("table", heading, element("tbody", *body), class_=kind or None), caption)


def scrolling(content: Html, caption: str) -> Html:
    """A box that scrolls by itself, with the keyboard too, below a caption that doesn't."""
    box = element("div", content, class_="scroll", role="region", aria_label=caption, tabindex=0)
    return element("figure", element("figcaption", caption), box)


def picture(pixels: np.ndarray, alt: str, kind: str | None = None) -> Html:
    """Pixels (H, W, 3) or, with opacity, (H, W, 4) uint8 as an image in the page itself."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    height, width = pixels.shape[:2]
    return element("img", src=f"data:image/png;base64,{data}", alt=alt, width=width, height=height, class_=kind)


def page(title: str, lead: Html, sections: Sequence[Section]) -> str:
    """The whole document, with a table of contents."""
    metas = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
    ]
    head = element("head", *metas, element("title", title), element("style", Html(STYLE)))
    header = element("header", element("h1", title), lead)
    contents = element("nav", element("h2", "Contents"), _contents(sections), aria_label="Contents")
    main = element("main", *(_section(section, 2) for section in sections))
    body = element("body", header, element("div", contents, main, class_="columns"))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _section(section: Section, level: int) -> Html:
    parts = [_section(part, level + 1) for part in section.parts]
    return element("section", element(f"h{level}", section.title), section.body, *parts, id=section.id)


def _contents(sections: Sequence[Section]) -> Html:
    items = []
    for section in sections:
        link = element("a", section.title, href=f"#{section.id}")
        items.append(element("li", link, *([_contents(section.parts)] if section.parts else [])))
    return element("ul", *items)

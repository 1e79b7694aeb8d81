"""Elements of a page: built as a tree, so that every text from outside is escaped by the standard library."""

from __future__ import annotations

import xml.etree.ElementTree as ET

Attribute = str | int | float | bool | None
Child = ET.Element | str | None


def element(tag: str, *children: Child, **attributes: Attribute) -> ET.Element:
    """An element of HTML or SVG.

    Args:
        tag: its name.
        children: elements and texts in order; None is left out.
        attributes: by name, ``_`` for ``-`` and one more at the end where Python has the word
            (``class_``, ``aria_label``). None and False leave it out, True is an attribute without value.
    """
    made = ET.Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            made.set(name.rstrip("_").replace("_", "-"), "" if value is True else _number(value))
    for child in children:
        if isinstance(child, str):
            _append_text(made, child)
        elif child is not None:
            made.append(child)
    return made


def html(made: ET.Element) -> str:
    """The element as text; what UTF-8 cannot hold (a file name that is none) becomes ``?``."""
    text = ET.tostring(made, encoding="unicode", method="html")
    return text.encode("utf-8", "replace").decode("utf-8")


def _append_text(made: ET.Element, text: str) -> None:
    if len(made):
        made[-1].tail = (made[-1].tail or "") + text
    else:
        made.text = (made.text or "") + text


def _number(value: str | int | float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)

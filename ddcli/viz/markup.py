"""HTML and SVG as trees: what is text stays text, whatever it holds."""

from xml.etree import ElementTree

from ..errors import printable

Node = ElementTree.Element


def tag(name: str, /, *children: Node | str | None, **attributes: object) -> Node:
    """An element. A None among its children or attributes is left out; `class_` is written `class`, and
    `stroke_width` `stroke-width`."""
    known = {k.rstrip("_").replace("_", "-"): _text(v) for k, v in attributes.items() if v is not None}
    made = Node(name, known)
    for child in children:
        if isinstance(child, str):
            _append(made, _text(child))
        elif child is not None:
            made.append(child)
    return made


def markup(node: Node) -> str:
    """The tree as HTML."""
    return ElementTree.tostring(node, encoding="unicode", method="html")


def _text(value: object) -> str:
    """A control character is no part of a page, nor is what turns the direction of writing."""
    return printable(f"{value:.1f}" if isinstance(value, float) else str(value), keep="\n\t")


def _append(node: Node, text: str) -> None:
    if len(node):
        node[-1].tail = (node[-1].tail or "") + text
    else:
        node.text = (node.text or "") + text

"""Formulas as MathML, which browsers draw themselves: the pages need no network and no scripts."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

TAG = re.compile(r"\\tag\{(.*?)\}")


def visit_inline(translator, node):
    translator.body.append(convert(node.astext()))
    raise SkipNode


def visit_block(translator, node):
    """A formula of its own; what `\\tag` says stands at the right, as Sphinx sets its numbers."""
    text = node.astext()
    translator.body.append(translator.starttag(node, "div", CLASS="math notranslate nohighlight"))
    for number in TAG.findall(text):
        translator.body.append(f'<span class="eqno">({number})</span>')
    translator.body.append(convert(TAG.sub("", text), display="block") + "</div>\n")
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Sphinx settings. Run through docs/build.py, which makes the pages from the notebooks."""

from docutils.nodes import SkipNode, bullet_list
from latex2mathml.converter import convert
from sphinx.addnodes import toctree

project = "talker_t2av"
author = "The talker_t2av developers"
copyright = "2026, the talker_t2av developers; Apache-2.0"

extensions = ["myst_nb"]
nb_execution_mode = "off"  # the outputs that are stored in the notebooks are shown
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # tables in outputs, too
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = "Talker-T2AV, a book you can run"
html_static_path = ["_build/static"]
html_css_files = ["book.css"]
html_favicon = "_build/static/favicon.svg"
html_copy_source = False
html_show_sourcelink = False
html_use_index = False  # the reference pages list all names
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "max_navbar_depth": 2,  # part and notebook; headings of the page stand on its right
    "navbar_persistent": [],
}
# light or dark as the reader's system is; without it the theme complains in the console
html_context = {"default_mode": "auto"}
html_math_renderer = "mathml"


def visit_inline_math(self, node):
    self.body.append(convert(node.astext()))
    raise SkipNode  # else the TeX itself would be printed after the formula


def visit_block_math(self, node):
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def only_titles(contents: bullet_list) -> bullet_list:
    """The table of contents of a page without the headings below its title."""
    contents = contents.deepcopy()
    for entry in contents:
        lists = list(entry.findall(toctree))
        entry[1:] = [bullet_list("", *lists)] if lists else []
    return contents


def quick_sidebar(app, pagename, templatename, context, doctree):
    """The sidebar shows titles of pages. Sphinx copies all headings of all pages for it, on every
    page anew, and then takes them off: half of the time of a build. Here it never sees them.
    """
    make_sidebar = context["toctree"]

    def of_titles(**options):
        everything = app.env.tocs
        if not hasattr(app, "titles"):
            app.titles = {name: only_titles(page) for name, page in everything.items()}
        app.env.tocs = app.titles
        try:
            return make_sidebar(**options)
        finally:
            app.env.tocs = everything

    context["toctree"] = of_titles


def setup(app):
    # Formulas become MathML when the site is built: readers need no network and no script to see
    # them.
    app.add_html_math_renderer("mathml", (visit_inline_math, None), (visit_block_math, None))
    app.connect("html-page-context", quick_sidebar, priority=100)

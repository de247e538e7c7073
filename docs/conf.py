# Copyright: (c) 2026, The kvmops.migration authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx's settings for the documentation site. tests/gates/docs.py puts the sources together and calls Sphinx.

Nothing is fetched: what the collection's documentation says of Ansible and of other collections leads to the web by the
table below, and a reference that is in neither is an error.
"""

from __future__ import annotations

import re

from docutils import nodes

project = "kvmops.migration"
author = "The kvmops.migration authors"
project_copyright = "2026, " + author
html_title = "kvmops.migration"

extensions = ["myst_parser", "sphinx_antsibull_ext"]
root_doc = "docs/index"
# antsibull-docs makes it for every collection, and this one has no such variables.
exclude_patterns = ["reference/environment_variables.rst"]
nitpicky = True
# Anchors of headings as on GitHub, where the same pages are read.
myst_heading_anchors = 4

html_theme = "sphinx_ansible_theme"
html_theme_options = {"topbar_links": {}, "display_version": False}
html_short_title = "kvmops.migration"
html_show_sourcelink = False
html_copy_source = False
html_use_index = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
pygments_style = "ansible"
# Of a block that says none.
highlight_language = "text"
# An option is written as it is typed.
smartquotes = False

ANSIBLE = "https://docs.ansible.com/projects/ansible/latest/"
LABELS = {
    "action_plugins": "plugins/action.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}
PLUGIN = re.compile(r"ansible_collections\.(?!kvmops\.)(\w+)\.(\w+)\.(\w+_[a-z]+)")


def elsewhere(_app, _env, node, content):
    """A reference to documentation that is not on this site, as a link to where it is."""
    target = node.get("reftarget", "")
    plugin = PLUGIN.fullmatch(target)
    page = "collections/{}/{}/{}.html".format(*plugin.groups()) if plugin else LABELS.get(target)
    if page is None or node.get("refdomain") != "std":
        return None
    return nodes.reference("", "", content, internal=False, refuri=ANSIBLE + page)


def home(_app, _page, _template, context, _doctree):
    """Let the head of each page lead to the start page of this site, and not of its server."""
    context["theme_documentation_home_url"] = context["pathto"](root_doc)


def setup(app):
    app.connect("missing-reference", elsewhere)
    app.connect("html-page-context", home)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

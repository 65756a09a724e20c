"""Renders the texts of templates/ that commands write or print. Called by `nodefiles`, `installcni` and `manifest`."""

from __future__ import annotations

import jinja2

from ovsnet import resources


def render(name: str, **values: object) -> str:
    """The text of templates/NAME.j2. A value that the template asks for and nobody gave is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(f"{name}.j2").render(values).lstrip("\n")

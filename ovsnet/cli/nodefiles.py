"""`ovsnet node-files`: renders what `bootstrap.sh node` puts on a node, into a folder of its choice.

Hidden. Writes into that folder only; bootstrap.sh compares, installs and remembers.
"""

from __future__ import annotations

from pathlib import Path

import click
import jinja2

from ovsnet import config, resources

FILES = ("10-ovsnet.conflist", "ovsnet.service")


@click.command()
@click.option(
    "--config", "path", type=click.Path(path_type=Path), required=True, help="The configuration to read."
)
@click.option("--installed-as", default="/etc/ovsnet/agent.yaml", help="Where it will stand on the node.")
@click.option("--prefix", default="/opt/ovsnet", help="Where ovsnet will stand on the node.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def node_files(path: Path, installed_as: str, prefix: str, folder: Path) -> None:
    """Render a node's files into FOLDER, and print the folder of manifests that the agent watches."""
    loaded = config.load(path)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resources.templates_dir()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    for name in FILES:
        text = environment.get_template(f"{name}.j2").render(
            agent_socket=loaded.cni_socket, prefix=prefix, config_file=installed_as
        )
        (folder / name).write_text(text.lstrip("\n"), encoding="utf-8")
    click.echo(loaded.store.file)

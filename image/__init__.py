"""Makes ovsnet's container image: `python -m image FILE`, or `tox -e image`, which also tries it out.

Needs no registry, no container engine and no root: Debian's packages are unpacked, not installed, and the archive is
written by ourselves. `debian` makes the system, `application` ovsnet with what it imports, `oci` the archive.
Nothing of ovsnet imports this.
"""

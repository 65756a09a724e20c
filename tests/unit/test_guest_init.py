"""What process 1 of a guest makes of the machine's folders."""

from __future__ import annotations

from pathlib import Path

from guest_init import unlink


def test_the_way_to_a_folder_has_none_of_its_links_and_what_is_there_stays(tmp_path: Path) -> None:
    machine, guest = tmp_path / "machine", tmp_path / "guest"
    (machine / "etc/cni/net.d").mkdir(parents=True)
    (machine / "etc/cni/net.d/10-other.conf").write_text("{}")
    (machine / "etc/cni/more").mkdir()
    (guest / "etc").mkdir(parents=True)
    (guest / "etc/cni").symlink_to(machine / "etc/cni")
    (guest / "etc/alias").symlink_to("cni")
    path = guest / "etc/cni/net.d"
    for _ in range(2):
        unlink(path, str(machine))
        assert not any(each.is_symlink() for each in (path, path.parent))
        assert (path / "10-other.conf").read_text() == "{}"
        assert (path.parent / "more").readlink() == machine / "etc/cni/more"
    assert (guest / "etc/alias").is_symlink(), "not one of ours"
    assert (machine / "etc/cni/net.d/10-other.conf").exists()

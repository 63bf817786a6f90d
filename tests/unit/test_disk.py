"""What the archive asks the operating system about files."""

from __future__ import annotations

import re
from pathlib import Path

from recorder.archive.disk import Disk, is_locked


def test_a_lock_is_seen_while_it_is_held(tmp_path: Path) -> None:
    """A lock file is held from `lock` until its descriptor is closed; one that does not exist is not held."""
    path, disk = tmp_path / "polygon.lock", Disk()
    assert not is_locked(path)
    fd = disk.lock(path)
    assert is_locked(path)
    disk.close(fd)
    assert not is_locked(path)


def test_a_lock_of_another_device_is_another_lock(tmp_path: Path) -> None:
    """Inode numbers repeat from device to device: a file with the same number elsewhere may well be locked."""
    path, disk, locks = tmp_path / "polygon.lock", Disk(), tmp_path / "locks"
    fd = disk.lock(path)
    held = Path("/proc/locks").read_text()
    disk.close(fd)
    locks.write_text(held)
    assert is_locked(path, locks)
    number = path.stat().st_ino
    elsewhere = re.sub(rf"[0-9a-f]+:[0-9a-f]+:{number} ", f"ff:ff:{number} ", held)
    assert elsewhere != held
    locks.write_text(elsewhere)
    assert not is_locked(path, locks)

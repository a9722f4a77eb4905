"""What file systems cannot do is passed over; what fails is said."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ray_anystorage.home.atomic import write_atomically
from ray_anystorage.transfer.posix_store import PosixStore


def refuse_directories(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have every fsync of a directory fail, as on a file system that knows none."""
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(code, os.strerror(code))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_cannot_sync_directories_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    refuse_directories(monkeypatch, code)
    PosixStore(str(tmp_path)).write_small("folder/small", b"small")
    write_atomically(str(tmp_path / "state"), b"state")
    assert (tmp_path / "folder/small").read_bytes() == b"small"
    assert (tmp_path / "state").read_bytes() == b"state"


def test_a_directory_that_is_not_durable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_directories(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        PosixStore(str(tmp_path)).write_small("small", b"small")
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(str(tmp_path / "state"), b"state")


def test_a_kernel_that_copies_nothing_is_helped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(3 << 20)
    (tmp_path / "source").write_bytes(content)
    monkeypatch.setattr(os, "copy_file_range", lambda *arguments: 0)
    store = PosixStore(str(tmp_path))
    store.copy("source", "target")
    assert (tmp_path / "target").read_bytes() == content


def test_a_copy_that_ends_early_is_an_error_and_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(bytes(1000))
    plain = os.copy_file_range

    def cut_first(source: int, *arguments: int) -> int:
        os.truncate(tmp_path / "source", 400)
        return plain(source, *arguments)

    monkeypatch.setattr(os, "copy_file_range", cut_first)
    with pytest.raises(OSError, match=r"ended at byte 400 .* of 1000"):
        PosixStore(str(tmp_path)).copy("source", "target")
    assert os.listdir(tmp_path) == ["source"]

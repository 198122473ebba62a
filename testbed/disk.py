"""What is written so that it lasts, and belongs to who typed sudo. All raise OSError: callers have the words for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path


def append(file: FileIO, content: bytes) -> None:
    """Add all of it, on disk when this returns, or nothing, to a file that was opened unbuffered for appending.

    Unbuffered, so that nothing is left which closing the file would try to write once more.
    """
    before = os.fstat(file.fileno()).st_size
    try:
        while content:  # a disk that is nearly full takes a part, and says why not more when it is asked again
            content = content[file.write(content) :]
        os.fsync(file.fileno())
    except BaseException:
        file.truncate(before)
        raise


def replace(path: Path, text: str) -> None:
    """Write a file anew; readers see the old or the new one, after a crash too."""
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        give(draft)
        draft.replace(path)
        sync_folder(path.parent)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def touch(path: Path) -> None:
    """Make an empty file, if there is none, that is the user's from its first byte, whoever writes into it."""
    path.touch()
    give(path)


def make_folders(path: Path) -> None:
    """Like `mkdir -p`, but what is made belongs to the user."""
    for folder in (*reversed(path.absolute().parents), path):
        if not folder.exists():
            folder.mkdir()
            give(folder)


def sync_folder(path: Path) -> None:
    """Make a rename of that folder last."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def give(path: Path) -> None:
    """Hand a file to who typed `sudo`; a symbolic link itself, never what it points to: this runs as root."""
    owner = invoking_user(os.environ)
    if owner is not None:
        os.chown(path, *owner, follow_symlinks=False)


def invoking_user(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """(uid, gid) of who typed `sudo`, or None where this is not root through sudo."""
    uid, gid = environ.get("SUDO_UID", ""), environ.get("SUDO_GID", "")
    return (int(uid), int(gid)) if os.geteuid() == 0 and uid.isdecimal() and gid.isdecimal() else None

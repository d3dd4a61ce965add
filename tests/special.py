"""Names under which there is no file that could be read, though something is there."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has none of these")


def make(path: Path, kind: str) -> Path:
    """Put something that is no file there, as an archive or a disk may have it."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path.name)
    return path


SPECIAL = {
    "folder": "is a folder, expected a file",
    "pipe": "is a named pipe, expected a file",
    "socket": "is a socket, expected a file",
    "device": "is a device, expected a file",
    "dangling": "is a link to nowhere, where no file can be read",
    "loop": "is a link to .*, where no file can be read",
}

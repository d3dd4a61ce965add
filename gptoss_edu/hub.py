"""Checkpoints from the Hugging Face Hub."""

from __future__ import annotations

import shutil
from pathlib import Path


def check_disk(folder: Path, needed: int) -> None:
    """Refuse with OSError to write `needed` bytes to a disk that has less room."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"too little disk: {folder} has {free / 1e9:.2f} GB free, but {needed / 1e9:.2f} GB are"
            " needed; free some space, or choose another disk"
        )


def download(repo_id: str) -> Path:
    """Folder with the files of a Hub repository."""
    raise FileNotFoundError(repo_id)

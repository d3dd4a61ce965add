"""Brings the code that trained the pocket model to the notebook that runs it again.

`pocket/` is no part of the package. It lies beside it in the repository; where the package was
installed from an address, pip has noted which, and that very commit is fetched.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

CODE = Path("pocket", "train.py")
HELP = (
    "pocket/train.py is in no folder above this one. This chapter needs the whole repository, and"
    " the package alone is here: clone it and open the notebook there, or in Colab upload its"
    " folder as gptoss_edu.zip, restart, and run the first cell again."
)


def bring_pocket(here: Path | None = None) -> Path:
    """Make `import pocket` work, with optax; return the folder that `pocket/` lies in.

    Raises FileNotFoundError or ImportError, and says what is missing and what to do.
    """
    here = Path.cwd() if here is None else here
    folders = [here, *here.parents, *(Path(folder) for folder in sys.path)]
    root = next((at for at in folders if (at / CODE).is_file()), None) or _cloned(here)
    if importlib.util.find_spec("optax") is None:
        said = _run(sys.executable, "-m", "pip", "install", "--quiet", "optax")
        importlib.invalidate_caches()
        if importlib.util.find_spec("optax") is None:
            raise ImportError(f"training needs optax, and pip could not install it: {said}")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return root


def _cloned(here: Path) -> Path:
    """The repository that the package came from, at the same commit, in a folder of its own."""
    try:
        noted = importlib.metadata.distribution("gptoss_edu").read_text("direct_url.json")
        source = json.loads(noted or "{}")
        url, commit = source["url"], source["vcs_info"]["commit_id"]
    except (importlib.metadata.PackageNotFoundError, KeyError):
        raise FileNotFoundError(HELP) from None
    folder = here / "gptoss_edu_repository"
    said = _run("git", "clone", "--quiet", url, str(folder))
    said += _run("git", "-C", str(folder), "checkout", "--quiet", commit)
    if not (folder / CODE).is_file():
        raise FileNotFoundError(f"{url} could not be cloned at {commit}: {said}")
    return folder


def _run(*command: str) -> str:
    """What a command had to say, at its end."""
    return subprocess.run(command, capture_output=True, text=True).stderr[-400:]

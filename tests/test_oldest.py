"""What `make oldest` sets up; the environment itself is made by .ci/run, not by a test."""

import shutil
import subprocess
import tomllib

import course
import oldest
import pytest


def test_the_oldest_jax_is_the_one_that_pyproject_allows():
    text = (course.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"jax>={oldest.oldest_jax()}" in tomllib.loads(text)["project"]["dependencies"]


def test_what_is_copied_exists_and_chapter_09_is_among_it():
    assert oldest.NOTEBOOKS[0].startswith("colab/09")
    assert all((course.ROOT / path).is_file() for path in oldest.NOTEBOOKS + oldest.TESTS)


def test_the_image_lacks_what_the_setup_cell_has_to_add():
    given = {line.split("=")[0].split("<")[0] for line in (*oldest.IMAGE, oldest.WIDGETS)}
    assert set(course.added()) - given == {"openai_harmony"}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_fetches_the_copy_in_place_of_the_published_repository(tmp_path):
    root = tmp_path / "root"
    (root / "gptoss_edu").mkdir(parents=True)
    (root / "gptoss_edu" / "__init__.py").write_text('__version__ = "7.8.9"\n')
    (root / "build").mkdir()
    (root / "build" / "large.bin").write_text("not this")
    (root / "notebooks").mkdir()
    commit = oldest.make_repository(tmp_path / "repository", root)
    assert course.address(tmp_path / "repository") == {"url": oldest.ADDRESS, "commit": commit}
    settings = oldest.as_on_kaggle(tmp_path / "repository")
    listed = subprocess.run(
        ["git", "ls-remote", oldest.ADDRESS, "HEAD"],
        env=settings | {"PATH": "/usr/local/bin:/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert listed.stdout.split() == [commit, "HEAD"], listed.stderr
    assert not (tmp_path / "repository" / "build").exists()

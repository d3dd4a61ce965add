"""What a finished conversion is, and what is not taken for one."""

from __future__ import annotations

import pytest

from gptoss_edu import conversion


def test_a_folder_without_a_manifest_is_no_conversion(tmp_path):
    assert not conversion.is_conversion(tmp_path)
    assert conversion.contents(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="convert PATH_OR_ID"):
        conversion.check_conversion(tmp_path)

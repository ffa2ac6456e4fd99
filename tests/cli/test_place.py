"""Where a pipeline process may listen."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fastapi_aqueduct import ConfigurationError, StartError
from fastapi_aqueduct.cli.place import claim


def test_the_directory_is_made_for_this_user_alone_and_one_process_has_the_path(tmp_path: Path) -> None:
    path = tmp_path / "ocr" / "flow.sock"
    for _ in range(2):
        with claim(path):
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            with pytest.raises(ConfigurationError, match="another pipeline process listens at"), claim(path):
                pass
            with claim(path.with_name("flow.other")):
                pass
        assert list(path.parent.iterdir()) == []


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o750)
    with pytest.raises(StartError, match="has mode 0750: a process that puts a socket there"):
        with claim(tmp_path / "flow.sock"):
            pass
    with pytest.raises(StartError, match="cannot be made"), claim(tmp_path / "not" / "there" / "flow.sock"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(StartError), claim(tmp_path / "file" / "flow.sock"):
        pass


def test_a_directory_with_the_group_of_its_own_is_enough(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o2700)  # as of a volume of Kubernetes with fsGroup
    with claim(tmp_path / "flow.sock"):
        pass

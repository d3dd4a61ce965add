"""Memory of a whole run is what its processes have together."""

import os
import subprocess
import sys
import time

import peak
import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
CHILD = "x = bytearray(200 * 2**20); x[:] = b'1' * len(x); print(flush=True); input()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@linux
def test_a_grandchild_counts_and_what_has_ended_does_not():
    watch = peak.Peak(os.getpid(), 0.02)
    before = peak.memory(os.getpid())
    watch.start()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        parent.stdout.readline()
        assert parent.pid in peak.descendants(os.getpid())
        assert len(peak.descendants(parent.pid)) == 2
        seen = watch.bytes
        deadline = time.monotonic() + 60
        while watch.bytes < before + 200 * 2**20 and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.communicate(b"\n")
    assert watch.stop() >= max(seen, before + 200 * 2**20)
    assert not watch.is_alive()
    assert peak.memory(parent.pid) == 0


def test_a_system_without_proc_says_nothing(tmp_path):
    assert peak.descendants(7, tmp_path) == {7}
    assert peak.memory(7, tmp_path) == 0

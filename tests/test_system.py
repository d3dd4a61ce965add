"""What is left, by the machine and by a container's limits."""

from gptoss_edu import system


def test_available_memory_is_a_plausible_number():
    available, where = system.available_memory()
    assert where == "this machine"
    assert 2**24 < available < 2**45


def test_a_container_allows_what_it_has_left(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert system._cgroup(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert system._cgroup(tmp_path) is None

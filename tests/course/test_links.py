"""The list of external links agrees with the chapters, and the tool that says so has eyes."""

import json

import links
import pytest


def test_every_external_link_is_listed_and_every_entry_is_used():
    assert list(links.problems()) == []


@pytest.fixture
def course(tmp_path):
    """A course of one chapter and one page, and the list of its three links."""
    cells = [
        ("markdown", ["course-head"], "[badge](https://colab.research.google.com/x)"),
        ("markdown", [], "See [YaRN](https://arxiv.org/abs/2309.00071), and `https://in.code`."),
        ("code", [], "# https://in.a.comment"),
        ("markdown", [], "(As in <https://a.org/b_(c)>.)\n\n```\nhttps://in.a.block\n```"),
    ]
    made = [{"cell_type": k, "metadata": {"tags": t}, "source": [s]} for k, t, s in cells]
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00.ipynb").write_text(json.dumps({"cells": made}))
    (tmp_path / "notebooks" / "page.md").write_text("[it](https://a.org/d#e), more.\n")
    entries = {address: ["a page", "2026-11-30"] for address in links.linked(tmp_path)}
    (tmp_path / links.LIST).write_text(links.written(entries))
    return tmp_path


def test_a_good_list_has_no_problems(course):
    assert list(links.linked(course)) == [
        "https://arxiv.org/abs/2309.00071",
        "https://a.org/b_(c)",
        "https://a.org/d#e",
    ]
    assert links.listed(course)["https://a.org/d#e"] == ["a page", "2026-11-30"]
    assert links.main(["check"], course) == 0


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ('"https://a.org/d#e"', '"https://a.org/other"', "https://a.org/d#e is not in"),
        ('"https://a.org/d#e"', '"https://a.org/other"', "no chapter links to https://a.org/other"),
        ('"https://a.org/d#e"', '"https://a.org/b_(c)"', "overwrite"),
        ('"https://a.org/d#e"', '"https://www.a.org/b_(c)/"', "in 2 spellings"),
        ('"https://a.org/d#e"', '"http://a.org/d"', "expected an address that begins with https"),
        ('"https://a.org/d#e"', '"https://z.org"', "not sorted"),
        ('"https://arxiv.org', '"https://Arxiv.org', "is not in"),
        ('["a page", "2026-11-30"]', '["a page", "yesterday"]', "expected a past day"),
        ('["a page", "2026-11-30"]', '["a page", "2999-01-01"]', "expected a past day"),
        ('["a page", "2026-11-30"]', '["", "not checked"]', "expected [what it is"),
        ('["a page", "2026-11-30"]', '"a page"', "expected [what it is"),
    ],
)
def test_a_bad_list_is_noticed(course, old, new, expected):
    path = course / links.LIST
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    found = list(links.problems(course))
    assert any(expected in line for line in found), found


def test_add_takes_what_chapters_link_to_and_keeps_what_was_read(course, tmp_path, capsys):
    file = tmp_path / "lines.txt"
    file.write_text(
        "# of one chapter\n\nhttps://a.org/d#e | not checked | another name\n"
        "https://nobody.links/here | not checked | a page\n"
    )
    before = links.listed(course)
    assert links.main(["add", str(file)], course) == 0
    assert links.listed(course) == before
    (course / links.LIST).unlink()
    assert links.main(["add", str(file)], course) == 1
    assert "arxiv.org/abs/2309.00071 is not in" in capsys.readouterr().err
    assert links.listed(course) == {"https://a.org/d#e": ["another name", "not checked"]}
    with pytest.raises(ValueError, match="expected URL"):
        links.take(["https://a.org"], {})

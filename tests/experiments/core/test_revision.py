"""Which code a result comes from, read from repositories made for it."""

import pytest

from experiments.core import revision as module
from experiments.core.revision import Revision, main, require_clean, revision, same_code
from tests.conftest import git


def test_a_clean_tree_has_a_commit_and_no_changes(committed_tree):
    found = require_clean(committed_tree)
    assert len(found.commit) == 40 and found.changed == () and found.dirty is False


def test_a_changed_tree_is_refused_in_one_line(changed_tree):
    assert revision(changed_tree).dirty is True
    with pytest.raises(ValueError, match=r"^working tree=code.py: must be as committed; .*$"):
        require_clean(changed_tree)


def test_a_new_file_is_a_change_and_an_ignored_one_is_none(committed_tree):
    (committed_tree / "ignored.txt").write_text("")
    assert revision(committed_tree).dirty is False
    (committed_tree / "new.py").write_text("")
    assert revision(committed_tree).changed == ("new.py",)


def test_outside_a_repository_it_is_said_and_allowed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert require_clean(tmp_path) == Revision(None, None)
    assert require_clean(tmp_path).dirty is None
    assert "no git repository" in capsys.readouterr().err


def test_without_git_there_is_no_commit(committed_tree, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert revision(committed_tree) == Revision(None, None)


def test_code_is_the_same_while_nothing_below_its_paths_differs(committed_tree, monkeypatch):
    first = revision(committed_tree).commit
    assert same_code(first, ["code.py"], committed_tree)
    (committed_tree / "other.py").write_text("1")
    git(committed_tree, "add", ".")
    git(committed_tree, "commit", "--quiet", "--message", "another file")
    assert same_code(first, ["code.py"], committed_tree)
    assert not same_code(first, ["code.py", "other.py"], committed_tree)
    assert not same_code("0" * 40, ["code.py"], committed_tree) and not same_code(None, ["code.py"], committed_tree)
    monkeypatch.setenv("PATH", "")
    assert not same_code(first, ["code.py"], committed_tree)


def test_as_a_command(changed_tree, monkeypatch, capsys):
    monkeypatch.setattr(module, "require_clean", lambda: require_clean(changed_tree))
    assert main() == 2
    assert capsys.readouterr().err.count("\n") == 1

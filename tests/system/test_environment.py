"""What a run says of the code that made it."""

import subprocess

from vit_jax.system import environment


def test_the_commit_is_not_that_of_a_project_in_whose_folder_the_code_is_installed(tmp_path, monkeypatch):
    def git(*args):
        subprocess.run(["git", "-C", str(tmp_path), *args], check=True, capture_output=True)

    installed = tmp_path / "site-packages" / "environment.py"
    installed.parent.mkdir()
    installed.touch()
    (tmp_path / "paper.tex").touch()
    git("init")
    git("add", "paper.tex")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "A paper")
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.git_commit() is None
    git("add", "site-packages")  # as in a checkout
    assert environment.git_commit().endswith("-dirty")

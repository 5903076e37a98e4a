"""Weights on the Hugging Face Hub, hf://OWNER/NAME@REVISION: fetched once, of one commit, then read without a network.

Of a repository safetensors and JSON files alone are fetched; nothing in it is run.
"""

import re
from pathlib import Path

from vit_jax.errors import UserError
from vit_jax.system.progress import doing

_NAME = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # a Path has one slash
_FILES = ["model*.safetensors", "*.json"]


def is_named(path: str | Path | None) -> bool:
    return str(path).startswith("hf:/")


def pinned(name: str) -> str:
    """The same with the commit that the revision is now, or was when it was fetched; raises UserError as `fetched`."""
    return f"hf://{_parts(name)[0]}@{fetched(name).name}"


def fetched(name: str | Path) -> Path:
    """The folder of a repository's files, named after its commit.

    Raises UserError for a name that is none, and, with the command that brings the folder otherwise, where it can't be
    fetched.
    """
    repository, revision = _parts(str(name))
    at = f" --revision {revision}" if revision else ""
    instead = (
        f"on a machine that can, `hf download {repository}{at} --include '*.json' 'model*.safetensors' --local-dir "
        f"{repository.split('/')[1]}` brings the folder, to be named in its place"
    )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    except ImportError as error:
        raise UserError(
            f"hf://{repository} needs a library that isn't installed: pip install 'vit-jax[hub]'; or, {instead}"
        ) from error
    try:
        with doing(f"Fetching hf://{repository}"):
            return Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"hf://{repository}: there is no such repository or revision {revision or 'main'}, or it isn't open to all"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        text = " ".join(str(error).split())[:160]
        raise UserError(f"hf://{repository} can't be fetched ({text}); {instead}") from error


def _parts(name: str) -> tuple[str, str | None]:
    """Repository and revision, where it is said."""
    match = _NAME.fullmatch(name)
    if not match:
        raise UserError(f"{name}: weights on the Hub are named hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    return match[1], match[2]

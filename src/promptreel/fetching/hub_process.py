"""The process that talks to a model hub, with the hub's own library. `hub.py` starts it, and sends requests to its stdin.

It is a process of its own because the library reads its settings from the environment when it is imported, and because a
process can be ended in the middle of a download. Requests and answers are JSON objects, one a line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

TELL_SECONDS = 0.2
LIST_SECONDS = 30.0


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            _list(request) if request["task"] == "list" else _download(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must learn of it
            _say(error=_explain(error, request))


def _list(request: dict[str, Any]) -> None:
    from huggingface_hub import HfApi  # noqa: PLC0415 - an extra

    api = HfApi(endpoint=request["endpoint"], token=request["token"] or False)
    info = api.model_info(request["repo"], revision=request["revision"], files_metadata=True, timeout=LIST_SECONDS)
    files = {
        each.rfilename: {"size": each.size, "sha256": each.lfs.sha256 if each.lfs else None} for each in info.siblings or ()
    }
    licences = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    _say(commit=info.sha, files=files, licence=next(iter(licences), None))


def _download(request: dict[str, Any]) -> None:
    """Goes on with what is in the request's path. At one commit a file never changes, so its size says what is missing."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url  # noqa: PLC0415 - an extra
    from huggingface_hub.file_download import http_get  # noqa: PLC0415 - `hf_hub_download` would begin anew each time

    endpoint, token = request["endpoint"], request["token"] or False
    url = hf_hub_url(request["repo"], request["file"], revision=request["revision"], endpoint=endpoint)
    size = get_hf_file_metadata(url, token=token, endpoint=endpoint).size
    path = Path(request["path"])
    with path.open("ab") as file:
        received = path.stat().st_size
        if size is not None and received > size:
            received = file.truncate(0)
        told: Any = _Told
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        http_get(url, file, resume_size=received, headers=headers, expected_size=size, tqdm_class=told)
    _say(received=path.stat().st_size, is_whole=True)


class _Told:
    """Stands in for the library's progress bar: tells the parent the bytes received so far."""

    def __init__(self, *_: Any, initial: int = 0, **_more: Any) -> None:
        self.n = initial
        self._told_at = 0.0

    def update(self, count: float | None = 1) -> None:
        self.n += int(count or 0)
        if time.monotonic() - self._told_at > TELL_SECONDS:
            self._told_at = time.monotonic()
            _say(received=self.n)

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def _explain(error: Exception, request: dict[str, Any]) -> str:
    from huggingface_hub import errors  # noqa: PLC0415 - an extra

    repo, revision = request["repo"], request["revision"]
    match error:
        case errors.GatedRepoError():
            return f"The hub gives {repo} only to accounts that accepted its terms. Accept them there, and set HF_TOKEN."
        case errors.RepositoryNotFoundError():
            return f"The hub has no repository {repo}, or it is private. Check its spelling."
        case errors.RevisionNotFoundError():
            return f"{repo} has no revision {revision}. Check its spelling."
        case errors.EntryNotFoundError():
            return f"{repo} has no file {request.get('file')}. Check its spelling."
        case errors.HfHubHTTPError():
            return f"The hub answered with status {error.response.status_code}. Try again later."
        case _:
            kind = type(error).__name__
            return f"The hub could not be reached, or broke off ({kind}). Try again: a download goes on where it was."


def _say(**told: object) -> None:
    print(json.dumps(told), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()

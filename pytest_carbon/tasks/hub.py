"""Asking the hub once: its client tries for most of a minute, file after file, before it says that nobody answers."""

from __future__ import annotations

TIMEOUT_S = 10.0


def unreachable(id: str, *, kind: str = "model") -> str | None:
    """Why the hub cannot be asked about a ``model`` or ``dataset``; None: it answers, if only that there is none."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to ask it"
    try:
        get_hf_file_metadata(hf_hub_url(id, "README.md", repo_type=kind), timeout=TIMEOUT_S)
    except HfHubHTTPError:  # an answer: what it means, the client says better
        return None
    except Exception as error:  # what a connection fails with is the business of the client's HTTP library
        return f"{type(error).__name__}: {first_line(error)}"
    return None


def first_line(error: BaseException) -> str:
    """What an error says first: the hub's clients add paragraphs."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""Ask a server that speaks OpenAI's protocol for chat completions, as a stream; standard library only."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from pytest_carbon.host.stdlib import json
from pytest_carbon.records import UsageProblem

_SHOWN = 300


class openai_chat:
    """One streamed chat completion for each call: ``carbon.drive(openai_chat(url, model, prompt), concurrency=8)``.

    Each call yields the chunks as the server sends them; the last one has the tokens (``usage``).

    Args:
        url: of the server, on this machine: ``http://127.0.0.1:8000``, or with ``/v1``.
        model: its name there.
        prompt: a text, or several, which are sent in turn.
        max_tokens: of an answer. Fix it: then each request does the same work.
        timeout: seconds to wait for the next part of an answer.
        fields: further fields of the request, such as ``temperature=0``; None leaves one out (``stream_options``).
    """

    def __init__(
        self,
        url: str,
        model: str,
        prompt: str | Sequence[str],
        *,
        max_tokens: int | None = None,
        timeout: float = 60.0,
        api_key: str | None = None,
        **fields: Any,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageProblem(f"url={url!r} is not possible: it is the address of a server, http://127.0.0.1:8000")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise UsageProblem(f"prompt={prompt!r} is not possible: it is a text, or several, one at least")
        self.url = url
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        path = parts.path.rstrip("/")
        self._path = path if path.endswith("/chat/completions") else f"{path or '/v1'}/chat/completions"
        self._prompts = itertools.cycle(prompts)
        self._timeout_s = timeout
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        asked = {"model": model, "max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True}}
        self._asked = {name: value for name, value in (asked | fields).items() if value is not None}

    def __call__(self) -> Iterator[dict[str, Any]]:
        """Send a request, and yield the chunks of its answer. Raises RuntimeError for what the server refuses."""
        from http import client

        make = client.HTTPSConnection if self._secure else client.HTTPConnection
        connection = make(self._host, self._port, timeout=self._timeout_s)
        try:
            messages = [{"role": "user", "content": next(self._prompts)}]
            body = json.dumps({**self._asked, "messages": messages})
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                said = response.read(_SHOWN).decode(errors="replace").strip()
                raise RuntimeError(f"the server answered HTTP {response.status} {response.reason}: {said}".rstrip(": "))
            complete = False
            for line in response:
                data = line.removeprefix(b"data:").strip()
                if not line.startswith(b"data:") or not data:
                    continue
                if data == b"[DONE]":
                    complete = True
                    break
                chunk = json.loads(data)
                if "error" in chunk:
                    raise RuntimeError(f"the server broke off its answer: {str(chunk['error'])[:_SHOWN]}")
                complete = complete or any(choice.get("finish_reason") for choice in chunk.get("choices", ()))
                yield chunk
            if not complete:
                raise ConnectionError("the server broke off its answer: the stream ended before it was complete")
        finally:
            connection.close()

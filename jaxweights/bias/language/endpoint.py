"""A language model behind an HTTP endpoint for chats, in the form that OpenAI's service and most servers of open models
share."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any, ClassVar

from jaxweights.errors import UserError
from jaxweights.settings import Settings, setting

_BUSY = (408, 409, 429, 500, 502, 503, 504)  # worth another try
_SHOWN = 300  # letters of a server's message


@dataclasses.dataclass(frozen=True)
class ChatEndpoint(Settings):
    """Where a model answers.

    Attributes:
      url: address before `/chat/completions`, such as http://localhost:8000/v1; empty for no model.
      model: its name at this server.
      key_variable: name of the environment variable that holds the key; without one no key is sent.
      temperature: of sampling; 0 for the most probable answer.
      max_tokens: longest answer in tokens.
      timeout: seconds to wait for one answer.
      tries: attempts at one answer, where a server is busy or cannot be reached.
      wait: seconds before the second attempt; twice as many before every further one.
    """

    SECTION: ClassVar[str] = "language.endpoint"

    url: str = ""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = setting(0.0, at_least=0.0, at_most=2.0)
    max_tokens: int = setting(512, at_least=1)
    timeout: float = setting(120.0, above=0.0)
    tries: int = setting(5, at_least=1, at_most=20)
    wait: float = setting(1.0, at_least=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url and not self.url.startswith(("http://", "https://")):
            self.refuse("url", "give an address that begins with http:// or https://")
        if bool(self.url) != bool(self.model):
            self.refuse("model", "give both the address of a server and the name of a model there, or neither")

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    def answer(self, prompt: str) -> str:
        """What the model says to one message.

        Raises:
          UserError: the server refuses, cannot be reached, or does not answer in this form.
        """
        for attempt in range(self.tries):
            last = attempt == self.tries - 1
            try:
                with urllib.request.urlopen(self._request(prompt), timeout=self.timeout) as response:
                    return self._content(response.read())
            except urllib.error.HTTPError as error:
                if last or error.code not in _BUSY:
                    said = error.read()[:_SHOWN].decode(errors="replace")
                    raise UserError(
                        f"{self.url} refuses a prompt for {self.model} ({error.code} {error.reason}): {said}. Check "
                        f"the model's name and the key in {self.key_variable}; what was answered is kept."
                    ) from error
            except (OSError, http.client.HTTPException) as error:
                if last:
                    raise UserError(
                        f"{self.url} cannot be reached ({error}). Start the server or correct language.endpoint.url; "
                        "what was answered is kept."
                    ) from error
            time.sleep(self.wait * 2**attempt)
        raise AssertionError("unreachable")

    def _request(self, prompt: str) -> urllib.request.Request:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.url.rstrip('/')}/chat/completions"
        return urllib.request.Request(address, json.dumps(body).encode(), headers)

    def _content(self, data: bytes) -> str:
        try:
            found: Any = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            said = data[:_SHOWN].decode(errors="replace")
            raise UserError(f"{self.url} does not answer as a chat endpoint does: {said}.") from error
        return str(found or "")

"""The root of the tree: what is said of every error, and those that answer nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

Headers = Sequence[tuple[bytes, bytes]]


class TidegateError(Exception):
    """The root of the tree."""


class ConfigError(TidegateError):
    """A configuration that cannot be served.

    `problems` holds every fault of the file, each as `file: path.to.key: reason`.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class NotRunning(TidegateError):
    """The proxy has not started yet, or is shutting down."""


class ClientGone(TidegateError):
    """The client hung up, or stopped reading, while it was being served."""


class BadProxyHeader(TidegateError):
    """A connection that does not begin with a PROXY header as it should; nobody is answered."""


class Refusal(TidegateError):
    """A request that is answered by the proxy itself.

    `detail` is one sentence for the operator; it never holds anything secret.  `body` is the
    answer's; None: one with the sentence for the client (`told`).
    """

    status: int = 500
    #: RFC 9209 section 2.3, the `error` parameter.
    token: ClassVar[str] = "proxy_internal_error"
    #: Whether this connection can carry another request after the answer.
    closes: ClassVar[bool] = False
    summary: ClassVar[str] = "The proxy could not serve this request."

    def __init__(
        self,
        detail: str = "",
        *,
        status: int = 0,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> None:
        super().__init__(detail or self.summary)
        self.status = status or self.status
        self.headers = tuple(headers)
        self.body = body

    @property
    def detail(self) -> str:
        return str(self)

    @property
    def told(self) -> str:
        """What the client is told: the same, where it is about the client."""
        return self.detail

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong: an answer that a route is there for is none."""
        return True

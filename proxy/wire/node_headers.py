"""The headers of a plain request as a node gets them; those of a handshake are `handshake`'s."""

from __future__ import annotations

from .head import Request
from .headers import ClientFacts, Headers, for_nodes, request_headers


def node_headers(
    request: Request, facts: ClientFacts, *, authority: str, whole: bool, keeps: bool
) -> Headers:
    """Return all of a request's headers, as they are written.

    `authority` is the node's, for a request that has no Host; `whole` is whether the body goes out
    together with the head, be it empty; `keeps` is whether the connection may carry another request
    afterwards.
    """
    headers = request_headers(request.headers, facts, request.once(for_nodes))
    if request.get(b"expect") is not None and (whole or request.http_version != b"1.1"):
        # There is nothing to go on with: all of it is here, or it knows nothing of that.
        headers = [pair for pair in headers if pair[0].lower() != b"expect"]
    if request.get(b"host") is None:
        headers.insert(0, (b"Host", authority.encode()))
    if b"transfer-encoding" in request.names:
        headers.append((b"Transfer-Encoding", b"chunked"))
    options = [] if keeps else [b"close"]
    if request.lists(b"te", b"trailers"):
        headers.append((b"TE", b"trailers"))
        options.append(b"TE")
    if options:
        headers.append((b"Connection", b", ".join(options)))
    return headers

"""What the proxy answers by itself: redirects, fixed responses, and pages for what goes wrong."""

from __future__ import annotations

from proxy.config.http import Respond, page_for
from proxy.config.model import Config
from proxy.config.route import Route
from proxy.errors import Refusal, RouteAnswer
from proxy.wire.head import Request
from proxy.wire.headers import ClientFacts, Headers
from proxy.wire.target import location, rewritten


def onward(request: Request, route: Route) -> Request:
    """Return a client's request with the target that its route makes of it."""
    target = rewritten(request.target, route)
    return request if target == request.target else request.to(target)


def own_answer(route: Route, request: Request, facts: ClientFacts) -> RouteAnswer:
    """Return the answer of a route that has no upstream.

    Raises:
        BadRequest: the client has not said what host it means, and nobody else has.
    """
    if (redirect := route.redirect) is not None:
        host = request.get(b"host") or b""
        where = location(redirect, facts.scheme, host, request.target)
        return RouteAnswer(status=redirect.status, headers=[(b"Location", where)], body=b"")
    assert route.respond is not None
    return _fixed(route.respond)


def _fixed(respond: Respond) -> RouteAnswer:
    headers: Headers = [(n.encode(), v.encode()) for n, v in respond.headers.items()]
    if respond.retry_after:
        headers.append((b"Retry-After", b"%d" % respond.retry_after))
    body = respond.content
    if body is not None:
        headers.append((b"Content-Type", respond.media_type.encode()))
    elif respond.status < 400:
        body = b""
    return RouteAnswer(status=respond.status, headers=headers, body=body)


def add_page(refusal: Refusal, route: Route | None, config: Config) -> None:
    """Give an answer that is an error, and has no body of its own, the page that is for it.

    A route's own pages go before those of all.
    """
    if refusal.body is not None or refusal.status < 400:
        return
    page = route and page_for(route.error_pages, refusal.status)
    page = page or page_for(config.error_pages, refusal.status)
    if page is not None:
        refusal.body = page.body
        refusal.headers += (
            (b"Content-Type", page.content_type.encode()),
            (b"Cache-Control", b"no-store"),
        )

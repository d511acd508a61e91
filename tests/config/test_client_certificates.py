"""What a listener asks its clients to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.client_certificates import ClientCertificates
from proxy.config.load import parse_config
from proxy.errors import ConfigError

CA, CRL = Path("ca.pem"), Path("crl.pem")


def test_defaults_are_strict() -> None:
    assert ClientCertificates(ca_file=CA) == ClientCertificates(
        mode="required", ca_file=CA, crl_file=None, crl_check="chain"
    )


def test_files_that_decide_who_is_accepted() -> None:
    assert ClientCertificates(ca_file=CA).files == (CA,)
    assert ClientCertificates(mode="optional", ca_file=CA, crl_file=CRL).files == (CA, CRL)
    assert ClientCertificates(mode="off", ca_file=CA, crl_file=CRL).files == ()


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("", "ca_file: is missing: it has the CAs whose certificates are accepted"),
        ('mode = "optional"', "ca_file: is missing: it has the CAs whose certificates"),
        ('mode = "on"', "mode: must be one of 'off', 'optional', 'required', not 'on'"),
        ('ca_file = "gone"', "ca_file: no such file: gone"),
        (f'ca_file = "{__file__}", crl_file = "gone"', "crl_file: no such file: gone"),
        (f'ca_file = "{__file__}", depth = 2', "depth: unknown key; allowed here: ca_file,"),
    ],
)
def test_faults(keys: str, fault: str) -> None:
    text = f"""
        [[listeners]]
        bind = "127.0.0.1:0"
        [listeners.tls]
        certificates = [ {{ cert_file = "{__file__}", key_file = "{__file__}" }} ]
        client_certificates = {{ {keys} }}
        [[routes]]
        path = "/"
        respond = {{}}
    """
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="t")
    (problem,) = caught.value.problems
    assert problem.startswith(f"t: listeners[0].tls.client_certificates.{fault}")

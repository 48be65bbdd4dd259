"""The shapes discovery and balancing share."""

from __future__ import annotations

import pytest

from sidecar.balance.endpoints import Endpoint, ServicePort


@pytest.mark.parametrize(
    ("host", "address"),
    [("10.0.0.1", "10.0.0.1:80"), ("fd00::1", "[fd00::1]:80"), ("::ffff:10.0.0.1", "[::ffff:10.0.0.1]:80")],
)
def test_an_address_reads_as_one(host: str, address: str) -> None:
    assert Endpoint(host, 80).address == address


def test_a_service_port_reads_as_people_write_it() -> None:
    assert str(ServicePort("shop", "orders", 7000)) == "orders.shop:7000"

from __future__ import annotations

from ipaddress import ip_network

import pytest

from promptreel.fetching.addresses import refused_addresses, resolve

PUBLIC = ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001:81b::200e", "64:ff9b::101:101", "::ffff:1.1.1.1"]
NOT_PUBLIC = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.100.100.200", "169.254.1.1", "169.254.169.254", "168.63.129.16", "192.0.0.192", "192.0.2.1",
    "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "3fff::1", "5f00::1",
    "100::1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::101:101", "2002:7f00:1::", "2002:101:101::1", "2001:0:101:101::1",
]  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_address_that_is_not_public_is_refused(address: str) -> None:
    assert refused_addresses(["1.1.1.1", address], []) == [address]


def test_public_addresses_are_taken() -> None:
    assert refused_addresses(PUBLIC, []) == []


def test_allowed_network_holds_for_its_addresses_however_they_are_written() -> None:
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00::/8")]
    inside = ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd12::1"]

    assert refused_addresses([*inside, "10.2.0.1", "fe80::1"], allowed) == ["10.2.0.1", "fe80::1"]


def test_name_resolves_to_all_of_its_addresses_once() -> None:
    addresses = resolve("localhost", 80)

    assert "127.0.0.1" in addresses
    assert len(addresses) == len(set(addresses))
    assert refused_addresses(addresses, []) == addresses

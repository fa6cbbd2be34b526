"""Which addresses count as public, at the edges of each network."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.address import is_internal, is_public, is_translated

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255",
    "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.0.3.0",
    "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255",
    "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0",
    "223.255.255.255", "2001:200::1", "2001:4860:4860::8888", "2001:db7::1", "2001:db9::1",
    "2003::1", "2400:cb00::1", "2606:4700::1111", "2a00::1", "3ffd::1", "3fff:1000::1",
]  # fmt: skip
NOT_PUBLIC = [
    "0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255",
    "127.0.0.0", "127.255.255.255", "168.63.129.16", "169.254.0.0", "169.254.255.255",
    "172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.255", "192.0.2.0", "192.31.196.7",
    "192.52.193.7", "192.88.99.0", "192.168.0.0", "192.168.255.255", "192.175.48.1", "198.18.0.0",
    "198.19.255.255", "198.51.100.0", "203.0.113.255", "224.0.0.0", "239.255.255.255", "240.0.0.0",
    "255.255.255.255", "::", "::1", "::2", "::8.8.8.8", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8",
    "64:ff9b::8.8.8.8", "64:ff9b:1::1", "100::1", "1fff:ffff::", "2001::1", "2001:1::1",
    "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:10::1", "2001:1ff:ffff::", "2001:db8::",
    "2001:db8:ffff::1", "2002::1", "2620:4f:8000::1", "2606::5efe:8.8.8.8",
    "2606::200:5efe:1.1.1.1",
    "3ffe::1", "3fff::", "3fff:fff:ffff::", "4000::", "5f00::1", "fc00::", "fd00:ec2::254",
    "fe80::1", "febf::1", "fec0::1", "feff::1", "ff02::1", "ffff::",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_an_address_of_the_open_internet_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_a_special_address_is_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@given(st.ip_addresses())
def test_whatever_python_calls_private_is_not_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if not address.is_global or address.is_multicast or address.is_reserved:
        assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_no_ipv6_form_of_an_ipv4_address_is_public(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for form in (
        number,
        (0xFFFF << 32) | number,
        (0xFFFF << 48) | number,
        (0x64FF9B << 96) | number,
        (0x64FF9B0001 << 80) | number,
        (0x2002 << 112) | (number << 80) | 1,
        (0x20010000 << 96) | (~number & 0xFFFFFFFF),
    ):
        assert not is_public(ipaddress.IPv6Address(form))


def test_an_address_with_a_zone_is_neither_public_nor_internal() -> None:
    everything = [ipaddress.ip_network("::/0")]
    zoned = ipaddress.ip_address("2606:4700::1111%eth0")
    assert not is_public(zoned)
    assert not is_internal(zoned, everything)
    assert is_internal(ipaddress.ip_address("2606:4700::1111"), everything)


def test_a_network_that_was_named_holds_its_own_family_alone() -> None:
    networks = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")]
    assert is_internal(ipaddress.ip_address("10.1.255.255"), networks)
    assert is_internal(ipaddress.ip_address("fd12::1"), networks)
    assert not is_internal(ipaddress.ip_address("10.2.0.0"), networks)
    assert not is_internal(ipaddress.ip_address("::ffff:10.1.0.1"), networks)
    assert not is_internal(ipaddress.ip_address("10.1.0.1"), [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64:ff9b::8.8.8.8", True),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b:1::8.8.8.8", False),
        ("2606:4700::1111", False),
        ("8.8.8.8", False),
    ],
)
def test_what_nat64_leads_to_is_translated_only_where_that_is_public(
    text: str, *, expected: bool
) -> None:
    assert is_translated(ipaddress.ip_address(text)) == expected

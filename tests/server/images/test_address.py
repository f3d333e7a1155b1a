"""Which addresses are of the public internet."""

import asyncio
import ipaddress

import pytest

from edgephi.server.images.address import address_of, is_public
from edgephi.server.refusal import Refusal

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.9.10",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.1.1.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "::7f00:1",
    "2002:7f00:1::",
    "2002:c0a8:101::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_only_this_machine_or_its_network_reaches_is_not(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_others_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "0x7f.1", "2130706433", "0", "127.1"])
def test_this_machine_is_refused_by_all_its_names(host: str) -> None:
    with pytest.raises(Refusal, match="cannot fetch the image") as caught:
        asyncio.run(address_of(host, 80, private=False, place="x"))
    assert caught.value.status == 400


def test_it_may_be_allowed() -> None:
    assert asyncio.run(address_of("127.0.0.1", 80, private=True, place="x")) == "127.0.0.1"


def test_a_name_of_nobody() -> None:
    with pytest.raises(Refusal, match=r"no address of the host 'nobody\.invalid'"):
        asyncio.run(address_of("nobody.invalid", 80, private=True, place="x"))

"""An address is HOST:PORT, and nothing that could mean more in a file of somebody else's form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.addresses import split_address
from common.errors import InputError


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("hub.example.org:8443", ("hub.example.org", 8443)),
        ("10.0.0.7:443", ("10.0.0.7", 443)),
        ("[fd00::1]:8443", ("fd00::1", 8443)),
    ],
)
def test_an_address_has_two_parts(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address",
    ["hub", "hub:", ":8443", "hub:0", "hub:65536", "https://hub:1", "a b:1", 'a";x:1', "a;b:1", "-x:1"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="is not HOST:PORT"):
        split_address(address)


@given(st.text(max_size=40))
def test_no_address_can_say_more_than_an_address(text: str) -> None:
    try:
        host, port = split_address(text)
    except InputError:
        return
    assert set(host) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:")
    assert 1 <= port <= 65535

from __future__ import annotations

import socket

from hierarchy.runtime.page.addresses import lan_addresses, page_urls


def test_a_page_for_all_is_named_by_addresses_that_another_machine_can_open() -> None:
    urls = page_urls("0.0.0.0", 8080)
    assert urls == [f"http://{one}:8080" for one in lan_addresses() or ["127.0.0.1"]]
    assert page_urls("::", 8080) == urls
    for address in lan_addresses():
        with socket.socket() as own:
            own.bind((address, 0))  # raises for an address that is not this machine's
        assert not address.startswith("127.")


def test_a_page_for_one_address_is_named_by_it() -> None:
    assert page_urls("127.0.0.1", 80) == ["http://127.0.0.1:80"]
    assert page_urls("fd00::1", 80) == ["http://[fd00::1]:80"]

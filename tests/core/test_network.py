"""``--offline``, in processes of their own, as it cannot be undone."""

import subprocess
import sys

import pytest

OFFLINE = "import os, socket\nfrom steadyclip.core.network import Offline, go_offline\ngo_offline()\n"


def printed(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", OFFLINE + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_this_computer_is_reached_and_no_other() -> None:
    code = """
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
    socket.create_connection(("localhost", server.getsockname()[1])).close()
print(os.environ["HF_HUB_OFFLINE"])
for call in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.create_connection(("2001:db8::1", 80), timeout=1),
    lambda: socket.getaddrinfo("example.org", 443),
    lambda: socket.getaddrinfo(b"example.org", 443),
):
    try:
        call()
    except Offline as error:
        print(error)
"""
    assert printed(code).splitlines() == [
        "1",
        "--offline: no connection to 192.0.2.1",
        "--offline: no connection to 2001:db8::1",
        "--offline: example.org is not looked up",
        "--offline: example.org is not looked up",
    ]


@pytest.mark.heavy
def test_a_hub_model_that_is_not_in_the_cache_is_one_line() -> None:
    code = """
from steadyclip.core.errors import ModelError
from steadyclip.models.loading import checkpoint_folder
try:
    checkpoint_folder("nobody/nothing-of-that-name")
except ModelError as error:
    print(error)
"""
    assert "not in the cache, and the hub cannot be reached (OfflineModeIsEnabled)" in printed(code)

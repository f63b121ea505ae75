"""Clients of SOCKS5, UDP and all, that others wrote: Dante's and PySocks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

from tests.support.peers import find, missing
from tests.support.proxy import Address


def socksify(folder: Path, proxy: Address, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run *command* with Dante's library between it and its sockets: all of them go by *proxy*."""
    host, port = proxy
    path = folder / "socks.conf"
    path.write_text(f"""
errorlog: stderr
route {{
    from: 0.0.0.0/0 to: 0.0.0.0/0 via: {host} port = {port}
    proxyprotocol: socks_v5
    protocol: tcp udp
    method: none
}}
""")
    # Without the second, everything on loopback would go straight.
    environment = {**os.environ, "SOCKS_CONF": str(path), "SOCKS_AUTOADD_LANROUTES": "no"}
    return subprocess.run(
        [find("socksify"), *command], env=environment, capture_output=True, text=True, timeout=50
    )


def pysocks() -> ModuleType:
    """Load PySocks from where Debian has it, whichever Python this is."""
    path = Path("/usr/lib/python3/dist-packages/socks.py")
    if not path.exists():
        missing("PySocks is missing: it is in the Debian package python3-socks")
    spec = importlib.util.spec_from_file_location("pysocks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

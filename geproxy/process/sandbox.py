"""What a process that serves strangers can still do, once someone else has taken it over.

Landlock decides which files it opens, seccomp which system calls it makes. Each is used as far as
the kernel has it: a sandbox that is missing is told of, and is no reason not to serve.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from geproxy.process import landlock, seccomp

# Chosen here. Read after the start: libraries of name service modules; code that Python loads
# lazily, and shows in a traceback; the time zone; and, once per malloc arena, the number of cores.
SYSTEM = ("/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/sys/devices/system/cpu")
# Whole folders, because resolv.conf, hosts, nsswitch.conf, gai.conf and localtime are replaced by
# renaming: the rule of a file would end with it, and names would no longer be found. What others
# may not read there, an account of its own may not either.
CONFIGURATION = ("/etc",)
RESOLVER_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf")
# Where name services keep resolv.conf, and where their modules find them.
NAME_SERVICES = (
    *("/run/systemd/resolve", "/run/systemd/machines", "/run/systemd/userdb", "/run/resolvconf"),
    *("/run/NetworkManager", "/run/connman", "/run/netconfig", "/run/nscd", "/var/run/nscd"),
    *("/var/cache/nscd", "/var/lib/sss/mc"),
)
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random")
# For the check that all privileges are gone, soon after.
OWN_PROCESS = "/proc/self"
NEVER = frozenset(("/", "/run", "/var", "/var/run", "/home", "/root", "/tmp"))

# How a word of the scoreboard holds it.
LANDLOCK_MASK, SECCOMP_BIT = 0xFF, 1 << 8


@dataclass(slots=True)
class Sandbox:
    """The walls around this process, raised one after the other."""

    landlock_abi: int = 0  # 0: none
    seccomp: bool = False
    faults: dict[str, str] = field(default_factory=dict)  # by part: why there is none

    def confine_files(self) -> None:
        """Let files be read that name resolution and Python need, and no other; none be written.

        It holds for this thread and those it starts, so it comes before the first. The kernel wants
        PR_SET_NO_NEW_PRIVS, see privileges.prepare().
        """
        try:
            self.landlock_abi = landlock.confine(readable())
        except OSError as error:
            self.faults["landlock"] = error.strerror or str(error)

    def confine_calls(self) -> None:
        """Refuse system calls that a worker never makes: ids change no more, so settle() is over.

        It holds for all threads at once.
        """
        try:
            seccomp.confine()
        except OSError as error:
            self.faults["seccomp"] = error.strerror or str(error)
        else:
            self.seccomp = True

    @property
    def word(self) -> int:
        """All of it in one word, for describe()."""
        return min(self.landlock_abi, LANDLOCK_MASK) | (SECCOMP_BIT if self.seccomp else 0)


def describe(word: int) -> str:
    """Say what a Sandbox.word tells: "landlock 7, seccomp", one of both, or "off"."""
    abi = word & LANDLOCK_MASK
    parts = [f"landlock {abi}"] if abi else []
    parts += ["seccomp"] if word & SECCOMP_BIT else []
    return ", ".join(parts) or "off"


def readable() -> list[str]:
    """List the files and folders that a worker may read."""
    resolver = (os.path.dirname(os.path.realpath(path)) for path in RESOLVER_FILES)
    package = str(Path(__file__).parents[1])
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix, package, *sys.path)
    named = (*SYSTEM, *CONFIGURATION, *NAME_SERVICES, *DEVICES, OWN_PROCESS, *resolver, *python)
    absolute = (os.path.normpath(path) for path in named if os.path.isabs(path))
    return [path for path in dict.fromkeys(absolute) if path not in NEVER]

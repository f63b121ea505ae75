"""The account that workers run as, looked up while the user database can still be read."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """A user and the groups that it is in."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def account_of(user: str, group: str) -> Account:
    """Look up *user*; *group* takes the place of the user's own groups unless it is "".

    Raises ValueError for a name that does not exist.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ValueError("there is no such user") from None
    if not group:
        groups = tuple(os.getgrouplist(user, entry.pw_gid))
        return Account(user, entry.pw_uid, entry.pw_gid, groups)
    gid = gid_of(group)
    return Account(user, entry.pw_uid, gid, (gid,))


def gid_of(group: str) -> int:
    """Look up *group*. Raises ValueError for a name that does not exist."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ValueError("there is no such group") from None

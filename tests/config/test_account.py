"""Accounts: who workers are to be, looked up by name."""

import grp
import os
import pwd

import pytest

from geproxy.config.account import Account, account_of, gid_of
from geproxy.config.load import load

SOCKS = '[listen.socks]\nurl = "socks5://127.0.0.1:0"\n'
ME = pwd.getpwuid(os.getuid())
MY_GROUP = grp.getgrgid(ME.pw_gid)


def test_a_user_has_its_own_groups() -> None:
    groups = tuple(os.getgrouplist(ME.pw_name, ME.pw_gid))
    assert account_of(ME.pw_name, "") == Account(ME.pw_name, ME.pw_uid, ME.pw_gid, groups)


def test_a_group_takes_the_place_of_all_of_them() -> None:
    other = max(grp.getgrall(), key=lambda group: group.gr_gid)
    found = account_of(ME.pw_name, other.gr_name)
    assert found == Account(ME.pw_name, ME.pw_uid, other.gr_gid, (other.gr_gid,))


def test_a_group_is_known_by_its_name() -> None:
    assert gid_of(MY_GROUP.gr_name) == ME.pw_gid


@pytest.mark.parametrize("name", ["no-such-name", "", "0", "root ", "a\nb", "ü"])
def test_what_does_not_exist_is_said(name: str) -> None:
    with pytest.raises(ValueError, match="there is no such user"):
        account_of(name, "")
    with pytest.raises(ValueError, match="there is no such group"):
        gid_of(name)


def test_a_configuration_has_its_account_looked_up(tmp_path) -> None:
    path = tmp_path / "geproxy.conf"
    path.write_text(f'{SOCKS}[server]\nuser = "{ME.pw_name}"\n')
    found = load(str(path))
    assert found.account == account_of(ME.pw_name, "")
    path.write_text(f'{SOCKS}[server]\nuser = "{ME.pw_name}"\ngroup = "{MY_GROUP.gr_name}"\n')
    assert load(str(path)).account == account_of(ME.pw_name, MY_GROUP.gr_name)
    path.write_text(SOCKS)
    assert load(str(path)).account is None

"""Addresses of databases: checked, and shown without what is secret."""

import pytest

from relaytest.core.config import parse_config
from relaytest.core.dsn import parse_dsn, without_password
from relaytest.core.errors import ConfigError


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "postgresql:///relaytest",
        "postgres://u@h/d",
        "postgresql://u:p@[::1]:5433/d",
        "postgresql://[::1],[::2]:5433/d",
        "postgresql://u:p,w@db1:1,db2:2/d?target_session_attrs=read-write",
        "postgresql://postgres@/d?host=/tmp/x&port=5432",
        "postgresql://u:p@h:/d",
    ],
)
def test_a_dsn_is_kept_as_written(dsn):
    assert parse_dsn(dsn) == dsn


@pytest.mark.parametrize(
    "dsn",
    [
        "u:s3cret@h/d",
        "host=h password=s3cret",
        "postgresql://u:s3cret@h:port/d",
        "postgresql://u:s3cret@[::1/d",
        "mysql://u:s3cret@h/d",
        7,
    ],
)
def test_what_is_no_dsn_is_refused_and_not_shown(dsn):
    with pytest.raises(ConfigError, match=r"database\.dsn: must be a URI such as") as error:
        parse_config({"database": {"dsn": dsn}})
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@s:w@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://:p@h/d", "postgresql://:***@h/d"),
        ("postgresql:///d?user=u&password=p&port=1", "postgresql:///d?user=u&password=***&port=1"),
        ("postgresql:///d?sslpassword=p", "postgresql:///d?sslpassword=***"),
        ("", ""),
    ],
)
def test_a_password_is_not_shown(dsn, shown):
    assert without_password(dsn) == shown

"""The configuration from a file and from the environment."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from relaytest.cli import settings
from relaytest.cli.settings import data_folder, load
from relaytest.core.config import Config
from relaytest.core.errors import ConfigError
from relaytest.core.probe import Extra, Helo
from tests.cli.program import relaytest


@pytest.fixture(autouse=True)
def _bare(monkeypatch, tmp_path):
    """No setting of the machine that runs the tests."""
    for name in os.environ:
        if name.startswith("RELAYTEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "SYSTEM_FILE", tmp_path / "system.toml")


@pytest.fixture
def file(tmp_path) -> Path:
    """A file with every kind of value."""
    path = tmp_path / "relaytest.toml"
    path.write_text(
        "[sink]\n"
        'listen = ["127.0.0.1:25"]\n'
        'domains = ["one.example"]\n'
        "connections = 7\n"
        "[timing]\n"
        'connect = "5s"\n'
        "retries = [60]\n"
    )
    return path


def refusal(file: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file)
    return str(caught.value).splitlines()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    return path


# --- Where it comes from


def test_without_any_setting_there_are_the_defaults():
    assert load(None) == Config()


def test_a_file_is_read(file):
    config = load(file)
    assert (config.sink.listen, config.sink.connections) == (["127.0.0.1:25"], 7)
    assert config.timing.connect == timedelta(seconds=5)
    assert config.timing.retries == [timedelta(minutes=1)]


def test_the_file_may_be_named_in_the_environment(file, monkeypatch):
    monkeypatch.setenv("RELAYTEST_CONFIG", str(file))
    assert load(None).sink.connections == 7


def test_the_system_file_is_read_if_no_other_is_named(file, monkeypatch):
    monkeypatch.setattr(settings, "SYSTEM_FILE", file)
    assert load(None).sink.connections == 7


def test_the_system_file_is_not_read_if_another_is_named(file, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "SYSTEM_FILE", file)
    assert load(written(tmp_path, "")) == Config()


def test_the_argument_counts_more_than_the_environment(file, monkeypatch):
    monkeypatch.setenv("RELAYTEST_CONFIG", "/nowhere.toml")
    assert load(file).sink.connections == 7


def test_the_environment_counts_more_than_the_file(file, monkeypatch):
    monkeypatch.setenv("RELAYTEST_SINK__CONNECTIONS", "8")
    monkeypatch.setenv("RELAYTEST_SINK__LISTEN", '["127.0.0.1:26", "[::1]:26"]')
    monkeypatch.setenv("RELAYTEST_TIMING__CONNECT", "1min")
    config = load(file)
    assert (config.sink.connections, config.timing.connect) == (8, timedelta(minutes=1))
    assert config.sink.listen == ["127.0.0.1:26", "[::1]:26"]
    assert config.sink.domains == ["one.example"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DATABASE__TIMEOUT", "7.5", timedelta(seconds=7.5)),
        ("DATABASE__DSN", "postgresql://a@b/c?d=e", "postgresql://a@b/c?d=e"),
        ("IDENTITY__CONTACT", "12345", "12345"),
        ("IDENTITY__CONTACT", "", ""),
        ("TIMING__RETRIES", '[1, "2min"]', [timedelta(seconds=1), timedelta(minutes=2)]),
        ("TIMING__RETRIES", "[]", []),
        ("BATTERY__DEPTH", "full", "full"),
    ],
)
def test_every_kind_of_value_can_stand_in_the_environment(monkeypatch, name, text, value):
    monkeypatch.setenv(f"RELAYTEST_{name}", text)
    section, _, key = name.lower().partition("__")
    assert getattr(getattr(load(None), section), key) == value


def test_forms_of_ones_own_can_stand_in_the_environment(monkeypatch):
    form = '{"id": "X-MINE", "mail_from": "<>", "rcpt_to": "<${user}@${sink}>", "helo": "host"}'
    monkeypatch.setenv("RELAYTEST_BATTERY__EXTRA", f"[{form}]")
    assert load(None).battery.extras() == (Extra("X-MINE", "<>", "<${user}@${sink}>", Helo.HOST),)


@pytest.mark.parametrize("name", ["DATA", "PG_BIN", "REQUIRE_SERVERS"])
def test_variables_that_are_no_options_are_left_alone(monkeypatch, name):
    monkeypatch.setenv(f"RELAYTEST_{name}", "x")
    assert load(None) == Config()


# --- What is refused


def test_a_file_that_is_not_there_is_told(tmp_path):
    missing = tmp_path / "missing.toml"
    (line,) = refusal(missing)
    assert line.startswith(f"{missing}: cannot be read: ")
    assert "No such file" in line


def test_a_missing_file_named_in_the_environment_is_no_reason_for_the_defaults(monkeypatch):
    monkeypatch.setenv("RELAYTEST_CONFIG", "/nowhere.toml")
    assert refusal()[0].startswith("/nowhere.toml: cannot be read: ")


def test_a_folder_is_no_file(tmp_path):
    assert "Is a directory" in refusal(tmp_path)[0]


def test_a_file_in_another_encoding_is_told(tmp_path):
    (tmp_path / "latin1.toml").write_bytes(b'identity.contact = "J\xfcrgen"')
    assert "latin1.toml: cannot be read: 'utf-8' codec" in refusal(tmp_path / "latin1.toml")[0]


def test_what_is_not_toml_is_told_with_its_line(tmp_path):
    path = written(tmp_path, "[sink]\nconnections = 7\nlisten = 127.0.0.1:25\n")
    (line,) = refusal(path)
    assert line.startswith(f"{path}: not TOML: ")
    assert "line 3" in line


def test_an_unknown_key_is_told_with_the_one_that_was_meant(tmp_path):
    path = written(tmp_path, "[sink]\nlistn = []\n")
    assert refusal(path) == [f"{path}: sink.listn: no such key; did you mean sink.listen?"]


def test_an_unknown_section_is_told_with_the_one_that_was_meant(tmp_path):
    path = written(tmp_path, "[sinks]\nlisten = []\n")
    assert refusal(path) == [f"{path}: sinks: no such key; did you mean sink?"]


def test_several_mistakes_are_told_at_once_a_line_for_each(tmp_path, monkeypatch):
    path = written(
        tmp_path, '[sink]\nlisten = ["here"]\nconnections = 0\n[web]\nlisten = 7\n[foo]\n'
    )
    monkeypatch.setenv("RELAYTEST_DNS__TIMEOUT", "soon")
    lines = refusal(path)
    assert [line.split(":")[0] for line in lines] == ["RELAYTEST_DNS__TIMEOUT"] + [str(path)] * 4
    for key in ("dns.timeout is 'soon'", "sink.listen.0 is 'here'", "sink.connections is 0"):
        assert sum(key in line for line in lines) == 1
    for key in ("web.listen is 7", "foo: no such key"):
        assert sum(key in line for line in lines) == 1


def test_mistakes_that_are_nobodys_alone_name_the_file(file, monkeypatch):
    monkeypatch.setenv("RELAYTEST_TIMING__VISIT", "1s")
    (line,) = refusal(file)
    assert "timing.visit must not be shorter than timing.session" in line


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SINKK__LISTEN", "sinkk: no such key; did you mean sink?"),
        ("SINK__LISTENN", "sink.listenn: no such key; did you mean sink.listen?"),
        ("SINK_LISTEN", "sink_listen: no such key; did you mean sink.listen?"),
        ("FOO", "foo: no such key"),
        ("CONFIGG", "configg: no such key"),
        ("SINK__LISTEN__0", "sink.listen__0: no such key; did you mean sink.listen?"),
    ],
)
def test_a_misspelt_variable_is_refused(monkeypatch, name, told):
    monkeypatch.setenv(f"RELAYTEST_{name}", "x")
    assert refusal() == [f"RELAYTEST_{name}: {told}"]


def test_a_section_as_a_whole_is_no_variable(monkeypatch, file):
    monkeypatch.setenv("RELAYTEST_SINK", "{}")
    monkeypatch.setenv("RELAYTEST_SINK__CONNECTIONS", "3")
    (line,) = refusal(file)
    assert line.startswith("RELAYTEST_SINK: sink is '{}': ")


def test_a_file_whose_section_is_no_table_is_told_as_such(tmp_path, monkeypatch):
    path = written(tmp_path, "sink = 3\n")
    monkeypatch.setenv("RELAYTEST_SINK__CONNECTIONS", "3")
    (line,) = refusal(path)
    assert line.startswith(f"{path}: sink is 3: ")


@pytest.mark.parametrize("text", ["127.0.0.1:25", '["127.0.0.1:25"', "", '"127.0.0.1:25"'])
def test_a_list_that_is_not_json_is_refused_with_an_example(monkeypatch, text):
    monkeypatch.setenv("RELAYTEST_SINK__LISTEN", text)
    (line,) = refusal()
    assert line.startswith("RELAYTEST_SINK__LISTEN: sink.listen")
    assert line.endswith('in the environment a list is JSON, such as ["one", "two"]')


def test_a_bad_member_of_a_list_is_told_with_its_number(monkeypatch):
    monkeypatch.setenv("RELAYTEST_SINK__LISTEN", '["127.0.0.1:25", "here"]')
    (line,) = refusal()
    assert line.startswith("RELAYTEST_SINK__LISTEN: sink.listen.1 is 'here': must be address:port")


# --- config check


def test_config_check_says_that_it_is_right(file):
    done = relaytest("config", "check", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the configuration is right\n"


def test_config_check_says_what_keeps_workers_idle(tmp_path):
    done = relaytest("config", "check", "--config", written(tmp_path, "[sink]\n"))
    assert done.returncode == 0
    assert "sink.domains is not set" in done.stdout


def test_config_check_tells_the_mistakes_on_stderr(tmp_path):
    path = written(tmp_path, "[sink]\nlistn = []\n[web]\nlisten = 7\n")
    done = relaytest("config", "check", "--config", path)
    assert (done.returncode, done.stdout) == (78, "")
    lines = done.stderr.splitlines()
    assert lines[0] == f"relaytest: {path}: sink.listn: no such key; did you mean sink.listen?"
    assert lines[1].startswith(f"relaytest: {path}: web.listen is 7: ")
    assert len(lines) == 2


# --- The data folder


def test_the_data_folder_is_the_one_given(monkeypatch):
    monkeypatch.setenv("RELAYTEST_DATA", "/named")
    assert data_folder(Path("/given")) == Path("/given")


def test_the_data_folder_is_else_the_one_named_in_the_environment(monkeypatch):
    monkeypatch.setenv("RELAYTEST_DATA", "/named")
    assert data_folder(None) == Path("/named")


@pytest.mark.parametrize(
    ("xdg", "folder"),
    [("/xdg", Path("/xdg/relaytest")), ("", Path("/homes/me/.local/share/relaytest"))],
)
def test_the_data_folder_is_else_the_users(monkeypatch, xdg, folder):
    monkeypatch.setenv("HOME", "/homes/me")
    monkeypatch.setenv("XDG_DATA_HOME", xdg)
    assert data_folder(None) == folder

"""Alerts and dashboard, by Prometheus' own tool: they are valid, and fire when they should."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.mta.packages import require

FOLDER = Path(__file__).parents[1] / "systemd" / "prometheus"
NAMES = re.findall(r"- alert: (\w+)", (FOLDER / "alerts.yml").read_text())
ALWAYS = "x200"  # what is added to the value before, once a step
TOLD = f"relaytest_unsettled 0+0{ALWAYS}"  # by a scheduler
DAEMONS = [f'relaytest_daemons{{daemon="{n}"}} 1+0{ALWAYS}' for n in ("sink", "publisher", "web")]
# Of each alert: the series that are as they should be, and those of trouble.
CASES = {
    "SinkDoubtful": (
        ["relaytest_sink_proven_seconds 800+0"],
        ["relaytest_sink_proven_seconds 1000+0"],
    ),
    "NoWorker": (['relaytest_workers{vantage="a"} 1+0'], []),
    "NoScheduler": ([TOLD], []),
    "DaemonMissing": ([TOLD, *DAEMONS], [TOLD, *DAEMONS[1:]]),
    "RemovalsWait": (
        ['relaytest_oldest_due_seconds{priority="1"} 999+0'],
        ['relaytest_oldest_due_seconds{priority="0"} 999+0'],
    ),
    "Paused": (['relaytest_pauses{of="network"} 1+0'], ['relaytest_pauses{of="all"} 1+0']),
    "PublicationRefused": (
        ['relaytest_publications_total{zone="z",result="done"} 0+1'],
        ['relaytest_publications_total{zone="z",result="refused"} 0+1'],
    ),
    "PublicationOld": (
        ['relaytest_published_timestamp_seconds{zone="z"} 0+3600'],
        ['relaytest_published_timestamp_seconds{zone="z"} 0+0'],
    ),
    "DnsWrong": (['relaytest_dns_right{zone="z"} 1+0'], ['relaytest_dns_right{zone="z"} 0+0']),
    "MailWaits": (
        ['relaytest_mail_oldest_due_seconds{all=""} 600+0'],
        ['relaytest_mail_oldest_due_seconds{all=""} 2000+0'],
    ),
    "DatabaseAway": (
        ['relaytest_database_away_total{daemon="d"} 1+0'],
        ['relaytest_database_away_total{daemon="d"} 0+1'],
    ),
    "Deaf": (['relaytest_listening{daemon="d"} 1+0'], ['relaytest_listening{daemon="d"} 0+0']),
    "LeasesLost": (
        ['relaytest_visits_total{result="done"} 0+1'],
        ['relaytest_visits_total{result="lease-lost"} 0+1'],
    ),
    "ReloadRefused": (
        ['relaytest_reloads_total{result="done"} 0+1'],
        ['relaytest_reloads_total{result="refused"} 0+1'],
    ),
    "VersionsDiffer": (
        [f'relaytest_info{{version="1",instance="{host}"}} 1+0' for host in "ab"],
        [f'relaytest_info{{version="{version}"}} 1+0' for version in "12"],
    ),
    "FewDescriptors": (
        ['process_open_fds{job="relaytest"} 70+0', 'process_max_fds{job="relaytest"} 100+0'],
        ['process_open_fds{job="relaytest"} 90+0', 'process_max_fds{job="relaytest"} 100+0'],
    ),
}


@pytest.fixture
def promtool():
    """Run it on a file, which must be right."""
    program = require("prometheus")

    def run(*words: str | Path) -> None:
        done = subprocess.run(
            [program.path, *words], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_the_rules_are_valid(promtool):
    promtool("check", "rules", FOLDER / "alerts.yml")
    promtool("check", "config", FOLDER / "prometheus.yml")


def test_there_is_a_case_for_each_alert():
    assert [f"Relaytest{name}" for name in CASES] == NAMES


def written(series: list[str]) -> list[dict[str, str]]:
    whole = [one if one.endswith(ALWAYS) else one + ALWAYS for one in series]
    pairs = [one.rsplit(" ", 1) for one in whole]
    return [{"series": name, "values": values} for name, values in pairs]


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_when_it_should_and_not_before(promtool, tmp_path, name):
    quiet, loud = CASES[name]
    rule = f"Relaytest{name}"
    step, at = ("1h", "90h") if name == "PublicationOld" else ("1m", "90m")
    tests = [
        {
            "interval": step,
            "input_series": written(quiet),
            "alert_rule_test": [{"eval_time": at, "alertname": rule, "exp_alerts": []}],
        },
        {
            "interval": step,
            "input_series": written(loud),
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{rule}", alertstate="firing"}})',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
            ],
        },
    ]
    # JSON is YAML.
    file = tmp_path / "test.yml"
    whole = {"rule_files": [str(FOLDER / "alerts.yml")], "evaluation_interval": step}
    file.write_text(json.dumps(whole | {"tests": tests}))
    promtool("test", "rules", file)


def test_what_the_dashboard_asks_is_valid(promtool, tmp_path):
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(asked) > len(panels) > 14
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(asked)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_panels_do_not_overlap_and_have_numbers_of_their_own():
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len({panel["id"] for panel in panels}) == len(panels)

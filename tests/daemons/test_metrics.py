"""Metrics: counted where it happens, served where Prometheus looks, and all of them documented."""

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from relaytest.daemons import metrics, publisher, scheduler, sink, worker
from tests.daemons.peers import Target, send
from tests.daemons.test_web import Site, serving
from tests.lab import lab_config, until
from tests.mta.process import fresh_address, fresh_port

ROOT = Path(__file__).parents[2]
OURS = {
    metric.name + ("_total" if metric.type == "counter" else "")
    for metric in metrics.REGISTRY.collect()
    if metric.name.startswith("relaytest_")
}


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(f"relaytest_{name}", labels) or 0.0


async def test_what_happens_is_counted(begin, connection):
    target = Target()
    before = {
        name: value(name, **labels)
        for name, labels in (
            ("jobs_claimed_total", {}),
            ("visits_total", {"result": "done"}),
            ("verdicts_total", {"verdict": "closed", "reason": "refused"}),
            ("claim_seconds_count", {}),
            ("claim_wait_seconds_count", {}),
        )
    }
    listen = f"{(host := fresh_address())}:{fresh_port(host)}"
    async with (
        begin(
            worker.run, sink.run, scheduler.run, publisher.run, metrics={"listen": listen}
        ) as lab,
        target.serve() as port,
    ):
        await send(lab.sink, b"<a@b.example>", b"<stranger@c.example>")
        await lab.insert(target.host, port)
        await lab.verdict(target.host, "closed")
        await until(lambda: _seen("sink_proven_seconds", all=""), "the sink's proof")
    assert value("jobs_claimed_total") == before["jobs_claimed_total"] + 1
    assert value("visits_total", result="done") == before["visits_total"] + 1
    assert (
        value("verdicts_total", verdict="closed", reason="refused") == before["verdicts_total"] + 1
    )
    assert value("claim_seconds_count") > before["claim_seconds_count"]
    assert value("claim_wait_seconds_count") == before["claim_wait_seconds_count"] + 1
    assert value("visits_in_flight") == value("sessions_in_flight") == 0
    assert value("form_outcomes_total", form="S-NULL/R-PLAIN", step="rcpt") >= 1
    assert value("form_outcomes_total", form="control", step="rcpt") >= 1
    assert value("outcomes_total", step="rcpt", code="5xx") >= 20
    assert value("sink_events_total", event="opened") >= 1
    assert value("publications_total", zone="relays.example", result="done") >= 1
    assert value("workers", vantage="default") == 1
    assert value("listening", daemon="worker") == 1


async def _seen(name: str, **labels: str) -> bool | None:
    return metrics.REGISTRY.get_sample_value(f"relaytest_{name}", labels) is not None or None


async def test_prometheus_can_read_them(database, tmp_path):
    host = fresh_address()
    listen = f"{host}:{fresh_port(host)}"
    config = lab_config(tmp_path, metrics={"listen": listen})
    async with metrics.served(config, metrics.Place("worker")):
        site = Site((host, int(listen.rpartition(":")[2])))
        page = await site.say("GET /metrics HTTP/1.0", b"")
    assert page.status == 200
    names = {family.name for family in text_string_to_metric_families(page.text)}
    assert {"relaytest_visits", "relaytest_claim_seconds", "process_resident_memory_bytes"} <= names


async def test_without_an_address_nothing_listens(tmp_path):
    async with metrics.served(lab_config(tmp_path), metrics.Place("worker")):
        pass


async def test_answers_of_the_web_server_are_counted(database, tmp_path):
    before = value("http_requests_total", method="GET", status="404")
    async with serving(database, tmp_path) as site:
        await site.get("/nothing")
        await site.get("/nothing", "PURGE")
    assert value("http_requests_total", method="GET", status="404") == before + 1
    assert value("http_requests_total", method="other", status="404") >= 1


def test_the_table_has_them_all_and_no_more():
    text = (ROOT / "docs" / "operate.md").read_text()
    told = set(re.findall(r"^\| `(relaytest_\w+)", text, re.MULTILINE))
    assert told == OURS


def test_alerts_and_dashboard_know_no_others():
    folder = ROOT / "systemd" / "prometheus"
    dashboard = (folder / "dashboard.json").read_text()
    json.loads(dashboard)
    used = set(re.findall(r"\brelaytest_\w+", (folder / "alerts.yml").read_text() + dashboard))
    assert {name.removesuffix("_bucket") for name in used} <= OURS

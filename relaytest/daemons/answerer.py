"""The built-in DNS answerer of `relaytest up`: the zone straight from the database.

For trying the list out on a machine without rbldnsd or PowerDNS. Every answer is a look-up in
the database, so a listing is visible at once; and every name on the way to an entry exists, as
strict QNAME minimisation wants it (RFC 9156).
"""

from dataclasses import replace

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import structlog

from relaytest.core.config import Config, split_endpoint
from relaytest.core.errors import DatabaseAwayError
from relaytest.core.zone import Absence, Apex, Entry, answer, parse_question, zones_of
from relaytest.daemons.loop import Stop
from relaytest.daemons.presence import present
from relaytest.net.dns_server import serve_dns
from relaytest.store import listings, publications
from relaytest.store.database import Database

log = structlog.get_logger("answerer")


async def run(config: Config, database: Database, stop: Stop) -> None:
    """Answer until `stop`.

    Raises:
        OSError: answer.listen is taken or not ours.
    """
    zones = [Answerer(apex, database) for apex in zones_of(config)]
    zones.reverse()  # the zone below first

    async def answer_for_all(query: dns.message.Message) -> dns.message.Message:
        name = query.question[0].name
        return await next((one for one in zones if one.has(name)), zones[-1]).answer(query)

    async with (
        serve_dns(*split_endpoint(config.answer.listen), answer_for_all),
        present("answerer", database, stop),
    ):
        log.info("listening", at=config.answer.listen, zone=config.publish.zone)
        await stop.wait()


class Answerer:
    """Makes responses for one zone."""

    def __init__(self, apex: Apex, database: Database) -> None:
        self._apex = apex
        self._origin = dns.name.from_text(apex.zone)
        self._database = database

    def has(self, name: dns.name.Name) -> bool:
        """Whether a name is in the zone."""
        return name.is_subdomain(self._origin)

    async def answer(self, query: dns.message.Message) -> dns.message.Message:
        """Answer one question; REFUSED outside the zone, SERVFAIL without the database."""
        response = dns.message.make_response(query)
        question = query.question[0]
        if not self.has(question.name) or question.rdclass != dns.rdataclass.IN:
            response.set_rcode(dns.rcode.REFUSED)
            return response
        response.flags |= dns.flags.AA
        if question.name == self._origin:
            self._add(response, question.name, question.rdtype, self._apex_records())
            return response
        try:
            found = await self._find(question.name)
        except DatabaseAwayError:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        if isinstance(found, Absence):
            if found is Absence.NAME:
                response.set_rcode(dns.rcode.NXDOMAIN)
            response.authority.append(self._soa())
            return response
        records = {"A": [f"127.0.0.{found.code}"], "TXT": [f'"{found.text}"']}
        self._add(response, question.name, question.rdtype, records)
        return response

    async def _find(self, name: dns.name.Name) -> Entry | Absence:
        labels = name.relativize(self._origin).to_text().lower()
        question = parse_question(labels)
        apex, code = self._apex, None
        if not isinstance(question, Absence):
            async with self._database.transaction() as connection:
                code = await listings.code_of(connection, question, [*apex.texts])
                orders = await publications.orders_of(connection, apex.zone)
                apex = replace(apex, shut=orders.shut)
        return answer(labels, apex, lambda _: code)

    def _add(
        self,
        response: dns.message.Message,
        name: dns.name.Name,
        rdtype: dns.rdatatype.RdataType,
        records: dict[str, list[str]],
    ) -> None:
        """Add the records of the type asked for, or the SOA to say that there are none."""
        for kind, values in records.items():
            if rdtype in {dns.rdatatype.from_text(kind), dns.rdatatype.ANY}:
                response.answer.append(
                    dns.rrset.from_text_list(name, self._apex.seconds, "IN", kind, values)
                )
        if not response.answer:
            response.authority.append(self._soa())

    def _apex_records(self) -> dict[str, list[str]]:
        return {
            "SOA": [self._soa_text()],
            "NS": [f"{name}." for name in self._apex.nameservers],
            "TXT": [f'"{self._apex.about}"'],
        }

    def _soa_text(self) -> str:
        ttl = self._apex.seconds
        return f"{self._apex.nameservers[0]}. {self._apex.hostmaster}. 1 3600 900 1209600 {ttl}"

    def _soa(self) -> dns.rrset.RRset:
        return dns.rrset.from_text(self._origin, self._apex.seconds, "IN", "SOA", self._soa_text())

"""The scope rules inside the database, so that an INSERT is refused at once."""

from collections.abc import Sequence
from datetime import timedelta

from relaytest.core.target import SPECIAL, Address, Scope
from relaytest.store.database import Connection

LOCK = "LOCK TABLE relaytest.scope_network IN SHARE ROW EXCLUSIVE MODE"
CLEAR = """
    DELETE FROM relaytest.scope_network AS s
     WHERE NOT EXISTS (SELECT FROM unnest($1::cidr[], $2::text[]) AS n(network, rule)
                        WHERE n.network = s.network AND n.rule = s.rule)
"""
FILL = """
    INSERT INTO relaytest.scope_network (network, rule, why)
    SELECT * FROM unnest($1::cidr[], $2::text[], $3::text[])
    ON CONFLICT (network, rule) DO UPDATE SET why = excluded.why
     WHERE scope_network.why <> excluded.why
"""
NO_LABS = """
    DELETE FROM relaytest.network_limit WHERE why = 'scope.allow' AND network <> ALL ($1::cidr[])
"""
LABS = """
    INSERT INTO relaytest.network_limit (network, why)
    SELECT network, 'scope.allow' FROM unnest($1::cidr[]) AS network ON CONFLICT DO NOTHING
"""
LIMITS = """
    UPDATE relaytest.network_limit SET at_once = $1, gap = $2
     WHERE why = 'politeness' AND (at_once, gap) IS DISTINCT FROM ($1, $2::interval)
"""
PACE = """
    UPDATE relaytest.pace SET request_every = $1::interval[] WHERE request_every <> $1::interval[]
"""
REFUSAL = "SELECT relaytest.scope_refusal($1)"


async def write_scope(connection: Connection, scope: Scope) -> None:
    """Make the database judge as core.target does with this scope.

    What the operator allows besides is his own lab, where no network is too small for many.
    """
    rows = [(network, "special", why) for network, why in SPECIAL]
    rows += [(network, "allow", "scope.allow") for network in scope.allow]
    rows += [(network, "deny", "excluded by the operator (scope.deny)") for network in scope.deny]
    networks, rules, reasons = (list(column) for column in zip(*rows, strict=True))
    await connection.execute(LOCK)
    await connection.execute(CLEAR, networks, rules)
    await connection.execute(FILL, networks, rules, reasons)
    await connection.execute(NO_LABS, list(scope.allow))
    await connection.execute(LABS, list(scope.allow))


async def write_limits(
    connection: Connection, at_once: int, gap: timedelta, request_every: Sequence[timedelta]
) -> None:
    """Make the database keep to these limits wherever the operator set no others.

    Args:
        connection: Any.
        at_once: Targets of one /24 or /48.
        gap: Between the starts of two.
        request_every: From each requested test that did not pass to the next request.
    """
    await connection.execute(LIMITS, at_once, gap)
    await connection.execute(PACE, list(request_every))


async def refusal_of(connection: Connection, address: Address) -> str | None:
    """Return why an address may not be tested, nor be listed as an exit; or None."""
    why: str | None = await connection.fetchval(REFUSAL, address)
    return why

"""The scope rules inside the database, so that an INSERT is refused at once."""

from relaytest.core.target import SPECIAL, Scope
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
REFUSAL = "SELECT relaytest.scope_refusal($1)"


async def write_scope(connection: Connection, scope: Scope) -> None:
    """Make the database judge as core.target does with this scope."""
    rows = [(network, "special", why) for network, why in SPECIAL]
    rows += [(network, "allow", "scope.allow") for network in scope.allow]
    rows += [(network, "deny", "excluded by the operator (scope.deny)") for network in scope.deny]
    networks, rules, reasons = (list(column) for column in zip(*rows, strict=True))
    await connection.execute(LOCK)
    await connection.execute(CLEAR, networks, rules)
    await connection.execute(FILL, networks, rules, reasons)

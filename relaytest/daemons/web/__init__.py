"""The public pages, a first and plain form: state, evidence, removal.

Every byte that came from mail or SMTP is shown as escaped text; no request with GET has an
effect; no page runs a script.
"""

from relaytest.daemons.web.pages import run

__all__ = ["run"]

"""Sockets: SMTP client and listener, DNS, HTTP. No SQL, no policy, no log."""

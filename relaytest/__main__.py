"""`python -m relaytest` is the same program as `relaytest`."""

from relaytest.cli.app import main

raise SystemExit(main())

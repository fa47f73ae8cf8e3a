"""The real nmap with its script smtp-open-relay, which judges by replies and waits for no mail."""

import re
import subprocess
import time

from tests.bench.clients import Place
from tests.mta import packages

FORMS = 16  # envelopes that the script tries
FOUND = "Server "  # so its verdicts begin; what begins otherwise is an error
_PATIENCE = 60  # seconds
_VERDICT = re.compile(r"^\|[_ ]smtp-open-relay: *(.*)$", re.MULTILINE)


def ask(place: Place) -> tuple[float | None, str]:
    """Return the seconds that nmap took, its start included, and what it says."""
    program, why = packages.find("nmap")
    if program is None:
        return None, f"not available: {why}"
    options = ["-Pn", "-n", "-sT", "-p", str(place[1]), "--script", "+smtp-open-relay", place[0]]
    begun = time.perf_counter()
    try:
        done = subprocess.run(
            [program.path, *options],
            env=program.environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no end within {_PATIENCE} s"
    seconds = time.perf_counter() - begun
    verdict = _VERDICT.search(done.stdout)
    return seconds, verdict[1] if verdict else "none: the script says nothing"

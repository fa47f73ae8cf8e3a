"""One target by coverage: `python -m tests.fuzz.guided TARGET SECONDS`; needs atheris.

libFuzzer changes the octets from which hypothesis makes the inputs, and keeps those that reach
something new. It ends the process itself: 0, or 77 when a rule was broken.
"""

import sys

from tests.fuzz.target import FOUND


def main() -> None:
    """Fuzz until the time is up."""
    import atheris  # noqa: PLC0415 - optional; and what it is to see is imported after it

    with atheris.instrument_imports(include=["relaytest.core", "relaytest.net"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415

    name, seconds = sys.argv[1:]
    corpus = FOUND / "guided" / name
    corpus.mkdir(parents=True, exist_ok=True)
    bounds = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=2048", "-max_len=8192"]
    quiet = ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={corpus}-broken-"]
    atheris.Setup([sys.argv[0], *bounds, *quiet, str(corpus)], TARGETS[name].harness())
    atheris.Fuzz()


if __name__ == "__main__":
    main()

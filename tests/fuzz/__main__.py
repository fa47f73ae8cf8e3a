"""The command line of the fuzzing."""

import argparse
import importlib.util
import re
import subprocess
import sys
import time
import traceback

from tests.fuzz.targets import TARGETS


def main() -> int:
    """Fuzz the targets that were named, or all; return 1 if a rule was broken."""
    arguments = _parser().parse_args()
    unknown = sorted(set(arguments.names) - set(TARGETS))
    if unknown:
        sys.stderr.write(f"No target {unknown[0]}. Known: {', '.join(TARGETS)}\n")
        return 2
    names = arguments.names or list(TARGETS)
    guided = importlib.util.find_spec("atheris") is not None
    if not guided:
        print("atheris is not installed: inputs are made without a look at what they reach")
    share = arguments.seconds / len(names) / (2 if guided else 1)
    broken = [
        name
        for name in names
        if not _fuzz(name, share) or (guided and not _fuzz_guided(name, share))
    ]
    if broken:
        print(f"\nBroken: {', '.join(broken)}. The inputs are kept and tried first next time.")
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    known = "; ".join(f"{name}: {target.about}" for name, target in TARGETS.items())
    parser = argparse.ArgumentParser("python -m tests.fuzz", epilog=known)
    parser.add_argument("names", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="in all (default: 60)")
    return parser


def _fuzz(name: str, seconds: float) -> bool:
    """Fuzz one target and say how it went."""
    print(f"{name:>10}: {TARGETS[name].about} ...", flush=True)
    begun = time.monotonic()
    try:
        checked = TARGETS[name].try_for(seconds)
    except Exception:  # noqa: BLE001 - any exception at all is a find
        traceback.print_exc()
        return False
    print(f"{'':>10}  {checked} inputs in {time.monotonic() - begun:.0f} s, no rule broken")
    return True


def _fuzz_guided(name: str, seconds: float) -> bool:
    """Fuzz one target by coverage, in a process that libFuzzer ends; its words only if broken."""
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(max(1, round(seconds)))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    count = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
    if done.returncode or not count:
        print(done.stdout, done.stderr, sep="")
        return False
    print(f"{'':>10}  {count[1]} inputs guided by coverage, no rule broken")
    return True


if __name__ == "__main__":
    sys.exit(main())

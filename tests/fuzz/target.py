"""What a target is, and how it is run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.strategies import SearchStrategy

FOUND = Path(__file__).parents[2] / ".hypothesis" / "fuzz"  # inputs that failed
_SLICE = 500  # inputs between two looks at the clock


@dataclass(frozen=True, slots=True)
class Target:
    """Something to be fuzzed.

    Attributes:
        about: One line for people.
        inputs: Makes the inputs.
        check: Given one input; raises if a rule does not hold.
    """

    about: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any], None]

    def try_some(self, count: int) -> None:
        """Check so many inputs, always the same ones."""
        some = settings(derandomize=True, max_examples=count, deadline=None)
        some(self._test())()

    def try_for(self, seconds: float) -> int:
        """Check new inputs until the time is up; return how many.

        Hypothesis knows no limit of time, so it is run again and again for a moment.
        """
        until = time.monotonic() + seconds
        checked = 0

        def counted(value: Any) -> None:
            nonlocal checked
            checked += 1
            self.check(value)

        counted.__qualname__ = self.check.__qualname__  # the database keeps finds by name and code
        brief = settings(
            max_examples=_SLICE,
            deadline=None,
            print_blob=False,
            database=DirectoryBasedExampleDatabase(FOUND / self.check.__module__),
            suppress_health_check=list(HealthCheck),
        )
        while time.monotonic() < until:
            brief(given(value=self.inputs)(counted))()
        return checked

    def harness(self) -> Callable[[bytes], object]:
        """Return what makes an input of octets, if they make one, and checks it."""
        test: Any = self._test()
        checked: Callable[[bytes], object] = test.hypothesis.fuzz_one_input
        return checked

    def _test(self) -> Callable[[], None]:
        def once(value: Any) -> None:
            self.check(value)

        return given(value=self.inputs)(once)

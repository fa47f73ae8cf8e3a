"""One SMTP reply, and what its code means to a prober (RFC 5321 section 4.2)."""

import re
from dataclasses import dataclass

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?= |$)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer to one command, kept as it came.

    Attributes:
        code: Reply code of the last line, 200..599.
        lines: Text of each reply line, without code, separator and line end. Never empty.
            Bytes that are not UTF-8 are kept as surrogate escapes.
        mixed: The lines carried different codes, which RFC 5321 section 4.2.1 forbids.
    """

    code: int
    lines: tuple[str, ...]
    mixed: bool = False

    @property
    def positive(self) -> bool:
        """2yz: the server did what was asked (section 4.2.1)."""
        return self.code // 100 == 2

    @property
    def transient(self) -> bool:
        """4yz: refused for now; the same command may succeed later."""
        return self.code // 100 == 4

    @property
    def permanent(self) -> bool:
        """5yz: refused; the same command will be refused again."""
        return self.code // 100 == 5

    @property
    def enhanced(self) -> str | None:
        """Enhanced status code such as "5.7.1" (RFC 3463), or None.

        A code whose class differs from the reply code is a server's mistake and is dropped,
        as Postfix does: only `code` decides.
        """
        match = _ENHANCED.match(self.lines[-1])
        if match is None or int(match[1]) != self.code // 100:
            return None
        return match[0]

    @property
    def text(self) -> str:
        """All lines in one, for people and for word tests."""
        return " ".join(line.strip() for line in self.lines)

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()

"""From octets to SMTP replies (RFC 5321 section 4.2). No socket here; bounded; every octet once.

Rule: the same octets give the same replies and the same fault, however they were cut up.
"""

import re
from functools import lru_cache

from relaytest.core.reply import Reply

MAX_LINE = 4096  # octets, line end included; RFC 5321 section 4.5.3.1.5 allows 512
MAX_LINES = 512  # of one reply
MAX_REPLY = 64 * 1024  # octets

# Codes 200 to 599. No bare CR inside a line: if the server meant it as a line end, all replies
# after it would shift. CRs before the LF hide nothing; Windows' text mode makes CR CR LF.
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\0]*))?\r*")
# Up to four octets of a line, which may be blank.
_BEGINNING = re.compile(rb"(?:[2-5](?:[0-9](?:[0-9][ \-\r]?)?)?|\r*)")


class ReplyReader:
    """Cuts octets into replies; holds no more than one unfinished reply.

    Attributes:
        fault: Why what came is no SMTP reply; None as long as it is. Do not feed it further.
    """

    __slots__ = ("_blank", "_codes", "_lines", "_rest", "_size", "fault")

    def __init__(self) -> None:
        self.fault: str | None = None
        self._rest = bytearray()  # of a line whose end has not come
        self._lines: list[str] = []  # of a reply whose last line has not come
        self._codes: set[bytes] = set()
        self._size = 0
        self._blank = 0  # lines without anything, which are no replies and do no harm

    @property
    def in_mid_reply(self) -> bool:
        """Part of a reply has come, and not its end."""
        return bool(self._rest or self._lines)

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that `data` completes, up to the first fault."""
        replies = []
        lines = data.split(b"\n")
        self._rest += lines[0]
        if len(lines) > 1:
            lines[0] = bytes(self._rest)
            self._rest[:] = lines.pop()
            for line in lines:
                reply = (None if self._lines else _whole(line)) or self._take(line)
                if reply is not None:
                    replies.append(reply)
                elif self.fault is not None:
                    return replies
        self._look_at_rest()
        return replies

    def _take(self, line: bytes) -> Reply | None:
        """Add a line of a longer reply; return the reply if it was the last."""
        match = _LINE.fullmatch(line)
        if match is None or len(line) >= MAX_LINE:
            if line.strip(b"\r") or self._blank == MAX_LINES:
                self.fault = _fault(line)
            self._blank += 1
            return None
        code, separator, text = match.groups(b"")
        self._lines.append(_decoded(text))
        self._codes.add(code)
        self._size += len(line) + 1
        if len(self._lines) > MAX_LINES or self._size > MAX_REPLY:
            self.fault = f"a reply has more than {MAX_LINES} lines or {MAX_REPLY} octets"
        if separator == b"-" or self.fault is not None:
            return None
        reply = Reply(int(code), tuple(self._lines), len(self._codes) > 1)
        self._lines, self._codes, self._size = [], set(), 0
        return reply

    def _look_at_rest(self) -> None:
        """Tell garbage by its first octets, so that nobody waits for its line to end."""
        rest = self._rest
        if len(rest) >= MAX_LINE or not _BEGINNING.fullmatch(rest[:4]):
            self.fault = _fault(rest)
            rest.clear()


@lru_cache(maxsize=1024)  # a server answers most MAILs and all RSETs in the same words
def _whole(line: bytes) -> Reply | None:
    """Return the reply that is just this line, or None if it is not one."""
    match = _LINE.fullmatch(line)
    if match is None or match[2] == b"-" or len(line) >= MAX_LINE:
        return None
    return Reply(int(match[1]), (_decoded(match[3] or b""),))


def _fault(line: bytes | bytearray) -> str:
    """Name what is wrong; the same for a line in one piece and for one in several."""
    if len(line) >= MAX_LINE and _BEGINNING.fullmatch(line[:4]):
        return f"a reply line has more than {MAX_LINE} octets"
    return "a line came that is no SMTP reply"


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")

"""What a person is shown of the evidence of a trial: the part that decides, and never too much."""

import html
from collections.abc import Collection, Iterable, Sequence

from relaytest.core.token import mask
from relaytest.core.transcript import Line

_END = b"."
_LONGEST = 1000  # characters of a line


def deciding(lines: Sequence[Line], tokens: Collection[bytes]) -> set[int]:
    """Return the places of the lines by which messages for `tokens` were handed over.

    Of each message these are sender, recipient, and the server's word after the final dot. Where
    a token was only asked about, and no message followed, nothing was decided.

    Args:
        lines: Of one session.
        tokens: In lower case, of mailboxes whose messages came back.
    """
    found: set[int] = set()
    ours = [place for place, line in enumerate(lines) if line.sent]
    for number, place in enumerate(ours):
        said = lines[place].octets.lower()
        if not said.startswith(b"rcpt ") or not any(token in said for token in tokens):
            continue
        end = _end_of_data([*ours[number + 1 :]], lines)
        if end is not None:
            reply = next((n for n in range(end + 1, len(lines)) if not lines[n].sent), end)
            found |= {*ours[max(0, number - 1) : number + 1], reply}
    return found


def _end_of_data(following: Sequence[int], lines: Sequence[Line]) -> int | None:
    """Return the place of the final dot if DATA follows; None: the message was not sent."""
    if not following or lines[following[0]].octets.upper() != b"DATA":
        return None
    return next((place for place in following if lines[place].octets == _END), None)


def within(texts: Iterable[str], most: int, *, each: int = 1) -> tuple[list[str], bool]:
    """Return the first of some lines without our tokens, and whether these are all.

    Args:
        texts: Printable, a line each.
        most: Characters in a page, all in all.
        each: Characters around one.
    """
    kept: list[str] = []
    for text in texts:
        shown = mask(text)  # whole: half a token would be shown
        if len(shown) > _LONGEST:
            shown = f"{shown[:_LONGEST]} (cut)"
        most -= len(html.escape(shown)) + each
        if most < 0:
            return kept, False
        kept.append(shown)
    return kept, True

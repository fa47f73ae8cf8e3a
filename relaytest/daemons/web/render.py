"""Templates, and the files that pages need."""

import hashlib
from importlib.resources import files

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from relaytest.core.config import Config
from relaytest.core.token import mask
from relaytest.core.transcript import visible
from relaytest.core.values import spoken
from relaytest.daemons.web.guard import POLICY, TooOften

_KINDS = {
    "style.css": "text/css",
    "progress.js": "text/javascript",
    "puzzle.js": "text/javascript",
}


class Renderer:
    """Values in, HTML out; every value is escaped."""

    def __init__(self, config: Config) -> None:
        self._config = config
        folder = files("relaytest.daemons.web") / "static"
        self._files = {name: (folder / name).read_bytes() for name in _KINDS}
        self._templates = Environment(
            loader=PackageLoader("relaytest.daemons.web"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_printable,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["visible"] = lambda octets: mask(visible(octets))
        self._templates.filters["masked"] = mask
        self._templates.filters["duration"] = spoken
        self._templates.filters["plain"] = lambda path: path.replace("${", "").replace("}", "")
        self._templates.globals["asset"] = self._url

    def page(self, template: str, status: int = 200, **values: object) -> HTMLResponse:
        """Return a whole page."""
        return HTMLResponse(self.text(template, **values), status)

    def text(self, template: str, **values: object) -> str:
        """Return a page, or a part of one."""
        return self._templates.get_template(template).render(
            zone=self._config.publish.zone,
            contact=self._config.identity.contact,
            ttl=self._config.publish.ttl,
            **values,
        )

    def exhibit(self, template: str, **values: object) -> HTMLResponse:
        """Return a page of evidence, which runs nothing and is not for search engines."""
        response = self.page(template, 200, **values)
        response.headers["Content-Security-Policy"] = f"{POLICY}; sandbox allow-downloads"
        response.headers["X-Robots-Tag"] = "noindex"
        return response

    def message(self, status: int, title: str, text: str = "") -> HTMLResponse:
        """Return a page that says one thing."""
        return self.page("message.html", status, title=title, text=text)

    def not_an_address(self, text: str) -> HTMLResponse:
        """Say that what was typed is none."""
        why = (
            f"{text[:60]!r} is no IPv4 or IPv6 address, such as 192.0.2.1 or 2001:db8::1, "
            "and no host name."
        )
        return self.message(400, "Not an address", why)

    def too_often(self, often: TooOften) -> HTMLResponse:
        """Say that somebody asks too often, and when he may come back."""
        minutes = -(-often.seconds // 60)
        why = f"There were too many requests {often.whose}. Come back in {minutes} min."
        response = self.message(429, "Too often", why)
        response.headers["Retry-After"] = str(often.seconds)
        return response

    def file(self, name: str) -> Response:
        """Return a style sheet or script; its URL changes with it, so it may be kept."""
        response = Response(self._files[name], media_type=_KINDS[name])
        response.headers["Cache-Control"] = "public, max-age=86400, immutable"
        return response

    def _url(self, name: str) -> str:
        return f"/static/{name}?{hashlib.sha256(self._files[name]).hexdigest()[:12]}"


def _printable(value: object) -> object:
    """Show as an escape what a reader cannot see: controls, and what turns the way of reading."""
    if not isinstance(value, str) or hasattr(value, "__html__") or value.isprintable():
        return value  # what is HTML already was made of values that came by here
    return "".join(one if one.isprintable() or one == "\n" else _escape(one) for one in value)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

"""One HTML document that needs nothing beside it, and a policy that lets no other script run."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from durabert.errors import DependencyMissing
from durabert.version import __version__

GENERATOR: Final = f"durabert {__version__}"
TEMPLATES: Final = Path(__file__).parent / "templates"


def document(
    template: str, context: dict[str, Any], data: dict[str, Any], *, title: str, made: datetime | None = None
) -> str:
    """Return a report as one HTML document.

    Args:
        template: name of the template.
        context: what it shows.
        data: what its script reads.
        title: of the page.
        made: when, now if left out.

    Raises:
        DependencyMissing: the extra ``report`` is not installed.
    """
    try:
        import jinja2
        from vl_convert import javascript_bundle
    except ImportError as error:
        raise DependencyMissing(f"{error.name}, which reports are made with,", extra="report") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    # An end tag in a script would end it, whatever it stands in there.
    bundle = javascript_bundle() if data["charts"] else ""  # type: ignore[call-arg]  # its stub is wrong
    library = bundle.replace("</script", "<\\/script")
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    own = {"library": library, "script": script, "style": style}
    safe = {name: jinja2.utils.markupsafe.Markup(text) for name, text in own.items()}
    page: str = environment.get_template(template).render(
        **safe,
        **context,
        title=title,
        policy=_policy(library, script),
        generator=GENERATOR,
        made=f"made {(made or datetime.now(UTC)):%Y-%m-%d %H:%M} UTC",
        data=data,
        data_json=jinja2.utils.htmlsafe_json_dumps(data, dumps=_compact),
    )
    return page


def is_report(head: bytes) -> bool:
    """Return whether a file is a report of some version of durabert."""
    return b'<meta name="generator" content="durabert ' in head[:4096]


def _compact(value: object, **_: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _policy(*scripts: str) -> str:
    """Return a content security policy that lets these scripts run, and lets nothing be fetched."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )

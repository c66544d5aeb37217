"""What the intake is told, read from the environment once, when it starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, nan
from pathlib import Path

from microtome.errors import OptionError
from microtome.inbox import Inbox

LEAST_TOKEN = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The intake's settings."""

    inbox: Inbox
    token: str = field(repr=False)
    """What a sender of notifications has to know."""
    prefect_url: str
    """Of Prefect's API, without a slash at its end."""
    prefect_auth: str | None = field(default=None, repr=False)
    """`user:password` of a server that asks for one."""
    prefect_key: str | None = field(default=None, repr=False)
    most_bytes: int = 1 << 20
    """Of a notification; S3's own are below 256 KiB."""
    rest_s: float = 30.0
    """A file counts when it has not changed for so long."""
    poll_s: float = 5.0
    """Pause between two looks at the folders."""
    sqs_url: str | None = None
    """A queue to read notifications from."""

    def __post_init__(self) -> None:
        if len(self.token) < LEAST_TOKEN:
            raise OptionError(
                "MICROTOME_INTAKE_TOKEN", f"{len(self.token)} characters long", f"at least {LEAST_TOKEN}"
            )

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Settings":
        """From MICROTOME_* and Prefect's own variables; docs/small-lab.md lists them.

        Raises
        ------
        OptionError
            If one is missing or cannot be.
        """
        token = environ.get("MICROTOME_INTAKE_TOKEN", "")
        if not token and (file := environ.get("MICROTOME_INTAKE_TOKEN_FILE")):
            token = Path(file).read_text().strip()
        return cls(
            inbox=Inbox.of(environ),
            token=token,
            prefect_url=environ.get("PREFECT_API_URL", "http://127.0.0.1:4200/api").rstrip("/"),
            prefect_auth=environ.get("PREFECT_API_AUTH_STRING"),
            prefect_key=environ.get("PREFECT_API_KEY"),
            rest_s=number(environ, "MICROTOME_REST_S", 30),
            poll_s=number(environ, "MICROTOME_POLL_S", 5),
            sqs_url=environ.get("MICROTOME_SQS_URL"),
        )


def number(environ: Mapping[str, str], name: str, default: int) -> float:
    """A variable that holds a number from 0 on.

    Raises
    ------
    OptionError
        If it does not.
    """
    text = environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 <= value < inf:
        raise OptionError(name, text, "a number from 0 on")
    return value

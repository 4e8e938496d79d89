"""Who is told, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

from trueup.settings.security import is_confidential

ReceiverName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
# One address, without a display name: what a mail server is told, and nothing that could end a header.
MailAddress = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,255}$")]


def _address(value: str) -> str:
    """An address without a user in it, which would be a secret among the settings."""
    if "@" in value.partition("://")[2].partition("/")[0] or not value.startswith(("http://", "https://")):
        raise ValueError("an address is http or https and holds no user")
    return value


HttpAddress = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(_address)]


class _Receiver(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EmailReceiver(_Receiver):
    """Addresses that one SMTP server takes mail for."""

    kind: Literal["email"]
    host: str = Field(min_length=1, description="the SMTP server")
    port: int = Field(587, ge=1, le=65_535, description="its port")
    security: Literal["starttls", "tls", "none"] = Field("starttls", description="starttls, tls, or none")
    ca: Path | None = Field(
        None, description="file with the authorities its certificate comes from; unset: the system's"
    )
    user: str | None = Field(None, description="who logs in; unset: nobody. The secret `password` goes with it")
    sender: MailAddress = Field(description="the address in `From`")
    to: list[MailAddress] = Field(min_length=1, max_length=100, description="the addresses that are told")

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> Self:
        if self.user is not None and self.security == "none" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("a login needs starttls or tls")
        return self


class _HttpReceiver(_Receiver):
    ca: Path | None = Field(
        None, description="file with the authorities its certificate comes from; unset: the system's"
    )
    proxy: HttpAddress | None = Field(None, description="a proxy on the way; the environment's are not used")
    insecure_http: bool = Field(False, description="whether the address may be http beyond this machine")

    @model_validator(mode="after")
    def _confidential(self) -> Self:
        url = getattr(self, "url", None)
        if url is not None and not self.may_be_sent_to(url):
            raise ValueError("the address must be https, or http on this machine, or `insecure_http` says so")
        return self

    def may_be_sent_to(self, url: str) -> bool:
        """Whether the address is as confidential as is asked for."""
        return is_confidential(url) or (self.insecure_http and url.startswith("http://"))


class WebhookReceiver(_HttpReceiver):
    """Whoever takes signed JSON by HTTP. Secrets: ``signing_key``, and ``url`` where it is one."""

    kind: Literal["webhook"]
    url: HttpAddress | None = Field(None, description="where messages are posted; unset: the secret `url`")


class SlackReceiver(_HttpReceiver):
    """A channel of Slack, Mattermost or another that takes Slack's incoming webhooks. Secret: ``url``."""

    kind: Literal["slack"]


class TeamsReceiver(_HttpReceiver):
    """A channel of Microsoft Teams, by a workflow's webhook. Secret: ``url``."""

    kind: Literal["teams"]


class AlertmanagerReceiver(_HttpReceiver):
    """A Prometheus Alertmanager. Secrets: ``password`` for ``user``, or ``token``."""

    kind: Literal["alertmanager"]
    url: HttpAddress = Field(description="its address, without /api/v2/alerts")
    user: str | None = Field(None, description="who logs in (basic); the secret `password` goes with it")
    firing_for_s: float = Field(
        86_400.0, ge=60, description="seconds after which it takes an alert for resolved that nobody repeats"
    )


class KafkaReceiver(_Receiver):
    """A topic. Its secrets are settings of the client, such as ``sasl.password``."""

    kind: Literal["kafka"]
    bootstrap: str = Field(min_length=1, description="addresses of brokers, separated by commas")
    topic: str = Field(min_length=1, max_length=249, description="the topic")
    client: dict[str, str] = Field(default_factory=dict, description="further settings of the Kafka client")


Receiver = Annotated[
    EmailReceiver | WebhookReceiver | SlackReceiver | TeamsReceiver | AlertmanagerReceiver | KafkaReceiver,
    Field(discriminator="kind"),
]


class Notifying(BaseModel):
    """Who is told, and how."""

    receivers: dict[ReceiverName, Receiver] = Field(
        default_factory=dict, max_length=100, description="who can be told, by name; see notifications.md"
    )
    secrets: dict[str, dict[str, SecretStr]] = Field(
        default_factory=dict, description="secrets of receivers: name of the receiver, name of the secret, value"
    )
    secrets_folder: Path | None = Field(
        None, description="folder with a file RECEIVER.SECRET each, for those that are not in `secrets`"
    )
    templates: Path | None = Field(None, description="folder with templates of one's own; unset: as shipped")
    attempts: int = Field(100, ge=1, le=10_000, description="attempts after which a message is given up")
    retry_s: float = Field(5.0, gt=0, description="first wait before a message is tried again; doubled each time")
    retry_most_s: float = Field(900.0, gt=0, description="longest wait before a message is tried again")
    timeout_s: float = Field(10.0, gt=0, le=300, description="seconds that sending one message may take")
    lease_s: float = Field(60.0, gt=0, description="seconds after which a message of a sender that died is taken again")
    sweep_every_s: int = Field(5, ge=1, le=3_600, description="seconds between two looks at what is due")
    sweep_s: float = Field(4.0, gt=0, description="seconds that one look waits for its receivers; slower ones go on")
    turn_s: float = Field(20.0, gt=0, description="seconds after which a receiver's turn takes no further message")
    turn_faults: int = Field(3, ge=1, description="faults after which a receiver's turn ends")
    subject_chars: int = Field(200, ge=20, le=900, description="characters of a subject; the rest is cut")
    text_chars: int = Field(20_000, ge=100, description="characters of a text; the rest is cut")
    html_chars: int = Field(200_000, ge=100, description="characters of an HTML text; a longer one is left out")
    payload_bytes: int = Field(200_000, ge=1_000, description="bytes of a payload; further alerts are left out")
    attachments: int = Field(5, ge=0, le=100, description="files of one message; further ones are left out")
    attachments_bytes: int = Field(10_000_000, ge=0, le=100_000_000, description="bytes of all files of one message")
    rendered_alerts: int = Field(50, ge=1, le=1_000, description="alerts that one text shows; the rest is counted")
    kept_days: int = Field(90, ge=1, description="days for which sent messages are kept, and their keys known")
    given_up_kept_days: int = Field(365, ge=1, description="days for which messages that were given up are kept")
    forgotten_rows: int = Field(10_000, ge=1, description="old messages removed in one commit")

    @model_validator(mode="after")
    def _lease_outlives_a_send(self) -> Self:
        if self.lease_s < self.timeout_s + 1:
            raise ValueError("lease_s must exceed timeout_s by a second or more")
        return self

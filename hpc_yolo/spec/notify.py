"""The section `notify`: who gets a message when a run ends or needs a person, and how."""

from typing import Annotated, Literal

from msgspec import Meta, field

from hpc_yolo.spec.section import Section, split_list

FINISHED, FAILED, CANCELLED, PROBLEM = "finished", "failed", "cancelled", "problem"
FILE_PREFIX = "file:"  # before the path of a file that holds the address of a webhook
Event = Literal["finished", "failed", "cancelled", "problem"]


class NotifySpec(Section, frozen=True, kw_only=True):
    """Messages about the run to people, by at least one of mail, webhook and command; see docs/notify.md."""

    mail: Annotated[str | list[str] | None, Meta(description="Mail address, or several, to write to.")] = None
    smtp: Annotated[
        str | None,
        Meta(
            description="Host that takes mail, HOST or HOST:PORT. Default: that of the site profile, else the sendmail "
            "of the node, else localhost."
        ),
    ] = None
    webhook: Annotated[
        str | None,
        Meta(
            description="Address that gets the message as JSON (POST): ${NAME} of an environment variable, file:PATH "
            "of a file with mode 600, or an address without a secret."
        ),
    ] = None
    command: Annotated[
        str | list[str] | None,
        Meta(
            description="Command that gets the message as JSON on standard input and in variables HPC_YOLO_*: lines of "
            "bash, or a list of words. It is ended after 20 s."
        ),
    ] = None
    on: Annotated[
        list[Event] | Event,
        Meta(
            description="Which messages: finished; failed, an end that is neither; cancelled, by a person; problem, "
            "what a person must look at while the run goes on, each kind once."
        ),
    ] = field(default_factory=lambda: ["finished", "failed", "problem"])

    @property
    def recipients(self) -> list[str]:
        """Each of the mail addresses."""
        return [] if self.mail is None else split_list(self.mail)

    @property
    def events(self) -> list[str]:
        """Each of the kinds of messages."""
        return [self.on] if isinstance(self.on, str) else list(self.on)

    @property
    def shell_command(self) -> list[str]:
        """Words of the command; [] for none."""
        if isinstance(self.command, str):
            return ["bash", "-e", "-c", self.command]
        return list(self.command or ())

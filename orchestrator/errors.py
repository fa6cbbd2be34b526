"""Every error that crosses a module border here, as one tree.

AiAgentChatError
├── ConfigError                    exit code 2: the operator's file or environment
├── PreconditionError              exit code 3: something the host must offer is missing
│   ├── EngineUnavailableError
│   ├── ImageMissingError
│   ├── DiskError                  a room's own disk can't be used; its files are as they were
│   └── NotRunningError            no orchestrator answers on the control socket
├── StoreError                     exit code 4
│   ├── StoreTooNewError
│   ├── StoreCorruptError
│   └── StoreFullError             (retryable)
├── MatrixError
│   ├── HomeserverUnreachableError (retryable)
│   ├── RateLimitedError           (retryable, after `retry_after_s`)
│   ├── LoginRefusedError          exit code 5
│   ├── RequestRefusedError        the homeserver said no, for good
│   ├── AdminApiError              exit code 5: the homeserver's admin API can't be used
│   └── UndecryptableError
├── TooManyRoomsError              this installation has no uid left for another room
├── RunnerError
│   ├── RunnerGoneError            the container is not there, or no longer runs
│   ├── StartWithdrawnError        nobody wants the runner any more that waited for its start
│   ├── EngineRequestError         (retryable) the engine failed or did not answer in time
│   │   └── EngineRefusedError     the engine said no, for good
│   └── WireError
│       ├── WireProtocolError      the runner broke the protocol: it is not trusted any further
│       ├── WireVersionError
│       └── WireClosedError        (retryable) the stream ended
├── FileRefusedError               a workspace's file can't be had, or not be written: says why
├── EgressError
├── ControlError                   (retryable) the control socket answered wrongly, or not in time
└── IllegalTransitionError         a bug: a state machine met an event it has no cell for

A docstring says what happened and what to do about it, and is the default message. `retryable` says
whether the same call may succeed later without anybody changing anything. No secret, token or
message body ever stands in an error's text.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class AiAgentChatError(Exception):
    """Something went wrong in aiagentchat."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ConfigError(AiAgentChatError):
    """The configuration is not usable; each problem is one line."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class PreconditionError(AiAgentChatError):
    """Something that this host must offer is missing."""

    exit_code: ClassVar[int] = 3


class EngineUnavailableError(PreconditionError):
    """No Docker Engine answers. Start it (for instance: systemctl start docker), then try again."""


class ImageMissingError(PreconditionError):
    """The runner image is not there. Build it with: orchestrator image build."""


class DiskError(PreconditionError):
    """A room's disk can't be used. Its files are as they were; the log has the reason."""


class NotRunningError(PreconditionError):
    """No orchestrator is running. Start it with: make up (or orchestrator up --config FILE)."""

    def __init__(self, state_dir: Path, *, is_missing: bool = False) -> None:
        self.state_dir = state_dir
        where = "; there is no such directory. Name another with --state-dir" if is_missing else ""
        super().__init__(
            f"No orchestrator is running for {state_dir}{where}. "
            "Start it with: make up (or orchestrator up --config FILE)."
        )


class StoreError(AiAgentChatError):
    """The database could not be used."""

    exit_code: ClassVar[int] = 4


class StoreTooNewError(StoreError):
    """The database was written by a newer version. Run that version, or restore an older backup."""


class StoreCorruptError(StoreError):
    """The database is damaged. Nothing was changed; restore it from a backup."""


class StoreFullError(StoreError):
    """The disk that holds the database is full. Free some space; nothing was acknowledged."""

    retryable: ClassVar[bool] = True


class MatrixError(AiAgentChatError):
    """The homeserver could not do what was asked."""


class HomeserverUnreachableError(MatrixError):
    """The homeserver does not answer. Check matrix.homeserver and the network."""

    retryable: ClassVar[bool] = True
    exit_code: ClassVar[int] = 5


class RateLimitedError(MatrixError):
    """The homeserver asked us to slow down."""

    retryable: ClassVar[bool] = True

    def __init__(self, retry_after_s: float | None) -> None:
        self.retry_after_s = retry_after_s
        """Seconds to wait as the homeserver said, or None where it did not say."""
        super().__init__()


class LoginRefusedError(MatrixError):
    """The homeserver refused the login.

    Check matrix.user_id and MATRIX_PASSWORD (or MATRIX_ACCESS_TOKEN).
    """

    exit_code: ClassVar[int] = 5


class RequestRefusedError(MatrixError):
    """The homeserver refused a request; the same request will be refused again."""

    def __init__(self, *, errcode: str, status: int, what: str) -> None:
        self.errcode = errcode
        self.status = status
        super().__init__(f"{what}: the homeserver answered {status} {errcode}")


class AdminApiError(MatrixError):
    """The homeserver's admin API can't be used so."""

    exit_code: ClassVar[int] = 5


class UndecryptableError(MatrixError):
    """The event can't be decrypted with the keys that this device has. They may still arrive."""


class TooManyRoomsError(AiAgentChatError):
    """This installation has 16,384 rooms, the most that it has uids for. Start another one."""


class RunnerError(AiAgentChatError):
    """The room's runner could not do what was asked."""


class RunnerGoneError(RunnerError):
    """The room's container is not running."""


class StartWithdrawnError(RunnerError):
    """The runner's start was not waited for any longer."""


class EngineRequestError(RunnerError):
    """The Docker Engine failed, or did not answer in time."""

    retryable: ClassVar[bool] = True


class EngineRefusedError(EngineRequestError):
    """The Docker Engine refuses what was asked of it, and will refuse it again."""

    retryable: ClassVar[bool] = False


class WireError(RunnerError):
    """The connection to the runner failed."""


class WireProtocolError(WireError):
    """The runner sent something that the protocol forbids; it is not trusted any further."""


class WireVersionError(WireError):
    """The runner speaks another version of the protocol. It is replaced when it is idle."""


class WireClosedError(WireError):
    """The connection to the runner ended."""

    retryable: ClassVar[bool] = True


class FileRefusedError(AiAgentChatError):
    """The workspace has no such file, or it is not one that goes in or out."""


class EgressError(AiAgentChatError):
    """The egress gateway could not do what was asked."""


class ControlError(AiAgentChatError):
    """The orchestrator did not answer on its control socket. Look at its log, then try again."""

    retryable: ClassVar[bool] = True


class IllegalTransitionError(AiAgentChatError):
    """A state machine met an event that its table has no cell for; nothing was changed."""

    def __init__(self, *, state: str, event: str) -> None:
        self.state = state
        self.event = event
        super().__init__(f"no transition from {state} by {event}")


def first_error(errors: BaseExceptionGroup[AiAgentChatError]) -> AiAgentChatError:
    """The first error of a group, however deep; a group has one at least."""
    for error in errors.exceptions:
        return first_error(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError

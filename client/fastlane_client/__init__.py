"""The Python client of fastlane, synchronous and asynchronous with the same names.

::

    from fastlane_client import Client

    with Client() as client:                    # FASTLANE_URL, FASTLANE_TOKEN, or arguments
        run = client.submit("reports", image="ubuntu:22.04", command=["make", "report"])
        for record in run.logs(follow=True):    # resumes by sequence number
            print(record.stream, record.text, end="")
        result = run.wait()                     # raises JobFailed
"""

from fastlane_client.address import DEFAULT_URL, Place
from fastlane_client.client import AsyncClient, Client
from fastlane_client.core import Reply, VersionWarning
from fastlane_client.errors import (
    BadAddress,
    BadRequest,
    ClientError,
    Conflict,
    Fault,
    Forbidden,
    JobFailed,
    NotFinished,
    NotFound,
    NothingToFollow,
    Refused,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from fastlane_client.records import (
    BulkResult,
    DeliveryState,
    Event,
    Execution,
    ExecutionItem,
    Farm,
    FarmHost,
    FarmHosts,
    Health,
    Host,
    Job,
    JobItem,
    JobState,
    LastExecution,
    LogMatch,
    LogRecord,
    Notification,
    Overlap,
    Plan,
    PullPolicy,
    Reason,
    Retry,
    Schedule,
    ServerStatus,
    Stats,
    Status,
    Stream,
    Task,
    TaskJob,
    Trigger,
)
from fastlane_client.runs import AsyncRun, Run
from fastlane_client.version import VERSION

__version__ = VERSION

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "AsyncRun",
    "BadAddress",
    "BadRequest",
    "BulkResult",
    "Client",
    "ClientError",
    "Conflict",
    "DeliveryState",
    "Event",
    "Execution",
    "ExecutionItem",
    "Farm",
    "FarmHost",
    "FarmHosts",
    "Fault",
    "Forbidden",
    "Health",
    "Host",
    "Job",
    "JobFailed",
    "JobItem",
    "JobState",
    "LastExecution",
    "LogMatch",
    "LogRecord",
    "NotFinished",
    "NotFound",
    "NothingToFollow",
    "Notification",
    "Overlap",
    "Place",
    "Plan",
    "PullPolicy",
    "Reason",
    "Refused",
    "Reply",
    "Retry",
    "Run",
    "Schedule",
    "ServerError",
    "ServerStatus",
    "Stats",
    "Status",
    "Stream",
    "Task",
    "TaskJob",
    "TooManyRequests",
    "Trigger",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
    "VersionWarning",
    "__version__",
]

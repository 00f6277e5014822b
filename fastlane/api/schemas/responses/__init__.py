"""What answers look like: one module for each resource.

An answer is a :class:`TypedDict`: a plain dictionary when it is sent, and the schema of it in the
OpenAPI document. :mod:`fastlane.api.schemas.build` makes answers from records.
"""

# ruff: noqa: F403 (their names are used as those of this package)

from fastlane.api.schemas.responses.base import *
from fastlane.api.schemas.responses.events import *
from fastlane.api.schemas.responses.executions import *
from fastlane.api.schemas.responses.hosts import *
from fastlane.api.schemas.responses.jobs import *
from fastlane.api.schemas.responses.lists import *
from fastlane.api.schemas.responses.logs import *
from fastlane.api.schemas.responses.notifications import *
from fastlane.api.schemas.responses.problems import *
from fastlane.api.schemas.responses.server import *
from fastlane.api.schemas.responses.stats import *
from fastlane.api.schemas.responses.tasks import *

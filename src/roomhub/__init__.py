"""roomhub: live chat rooms to embed into a server."""

from roomhub.confirmations import MessageRefused as MessageRefused
from roomhub.core.errors import CloseReason as CloseReason
from roomhub.core.errors import application_close_reason as application_close_reason
from roomhub.core.hub import Hub as Hub
from roomhub.core.limits import Limits as Limits
from roomhub.core.message import Message as Message
from roomhub.core.message import Position as Position
from roomhub.core.statistics import Statistics as Statistics
from roomhub.runtime import Runtime as Runtime

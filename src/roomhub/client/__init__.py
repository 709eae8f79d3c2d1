"""A client of the v1 dialect, for asyncio and trio: rooms, acknowledged messages, history, presence, reconnects.

    async with connect("ws://127.0.0.1:8080/ws", username="ann") as chat:
        room = await chat.join("lobby", history=20)
        await room.send("hello")
        async for event in chat:
            match event:
                case Message():
                    print(event.username, event.content)

What it knows and decides is in ``roomhub.client.protocol``, without I/O; ``roomhub.client.chat`` owns the socket.
"""

from roomhub.client.backoff import Backoff as Backoff
from roomhub.client.chat import Chat as Chat
from roomhub.client.chat import Token as Token
from roomhub.client.chat import connect as connect
from roomhub.client.errors import ChatClosed as ChatClosed
from roomhub.client.errors import ChatError as ChatError
from roomhub.client.errors import ConnectFailed as ConnectFailed
from roomhub.client.errors import NotAnswered as NotAnswered
from roomhub.client.errors import NotConnected as NotConnected
from roomhub.client.errors import OutboxFull as OutboxFull
from roomhub.client.errors import RequestRefused as RequestRefused
from roomhub.client.errors import StayAway as StayAway
from roomhub.client.events import Changed as Changed
from roomhub.client.events import Connected as Connected
from roomhub.client.events import DirectMessage as DirectMessage
from roomhub.client.events import Disconnected as Disconnected
from roomhub.client.events import Draining as Draining
from roomhub.client.events import Event as Event
from roomhub.client.events import Failed as Failed
from roomhub.client.events import Joined as Joined
from roomhub.client.events import Kicked as Kicked
from roomhub.client.events import Left as Left
from roomhub.client.events import Member as Member
from roomhub.client.events import Message as Message
from roomhub.client.events import Missed as Missed
from roomhub.client.events import Restarted as Restarted
from roomhub.client.events import Sent as Sent
from roomhub.client.events import Shout as Shout
from roomhub.client.events import Typing as Typing
from roomhub.client.room import DirectPage as DirectPage
from roomhub.client.room import Page as Page
from roomhub.client.room import Room as Room
from roomhub.core.protocol import ModAction as ModAction

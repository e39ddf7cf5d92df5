"""The amqtt broker, alone in its process: `python -m broker.local.amqtt_process 127.0.0.1 1883`.

amqtt's own command goes on running after it failed to bind; this one ends, so that who started it sees why.
"""

from __future__ import annotations

import asyncio
import sys

from amqtt.broker import Broker
from amqtt.errors import BrokerError


async def serve(bind: str, port: str) -> None:
    """Serve MQTT 3.1.1 to anyone until the process is ended. Raises amqtt's BrokerError."""
    broker = Broker(
        {
            # No brackets around an IPv6 address: amqtt would hand them on to getaddrinfo.
            "listeners": {"default": {"type": "tcp", "bind": f"{bind}:{port}"}},
            # Naming plugins leaves out the default ones, which log every event and publish $SYS.
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    # Nothing is kept on disk, so there is nothing to shut down: SIGTERM may simply end the process.
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(serve(*sys.argv[1:]))
    except BrokerError as error:
        sys.exit(str(error))

"""Read ten messages about training, with paho alone: python docs/examples/read_metrics.py HOST PORT"""

import json
import sys

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion


def show(client: Client, seen: list[str], message: MQTTMessage) -> None:
    metrics = json.loads(message.payload)  # docs/protocol.md lists the fields
    robot = metrics.get("robot") or message.topic.split("/")[3]  # reflexarc/1/robot/NAME/metrics
    print(f"{metrics['kind']} of {robot}: {metrics['images']:,} images, {metrics['classes']} classes")
    seen.append(robot)
    if len(seen) == 10:
        client.on_message = None  # more may be here already
        client.disconnect()


client = Client(CallbackAPIVersion.VERSION2, userdata=[])
client.on_connect = lambda client, *_: client.subscribe("reflexarc/1/+/+/metrics")
client.on_message = show
client.connect(sys.argv[1], int(sys.argv[2]))
client.loop_forever()

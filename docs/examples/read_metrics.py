"""Read ten messages about training, with paho alone: python docs/examples/read_metrics.py HOST PORT"""

import json
import sys
from itertools import count

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

seen = count(1)


def show(client: Client, _: object, message: MQTTMessage) -> None:
    metrics = json.loads(message.payload)  # docs/protocol.md lists the fields
    robot = metrics.get("robot") or message.topic.split("/")[3]  # reflexarc/1/robot/NAME/metrics
    print(f"{metrics['kind']} of {robot}: {metrics['images']:,} images, {metrics['classes']} classes")
    if next(seen) == 10:
        client.disconnect()


client = Client(CallbackAPIVersion.VERSION2)
client.on_connect = lambda client, *_: client.subscribe("reflexarc/1/+/+/metrics")
client.on_message = show
client.connect(sys.argv[1], int(sys.argv[2]))
client.loop_forever()

"""`local-broker`: an MQTT broker on this machine, for trying things out and for networks you trust."""

from __future__ import annotations

import signal
import sys
from typing import Literal

from tyro.extras import SubcommandApp

from broker.address import is_loopback
from broker.errors import BrokerUnavailable, ReflexarcError
from broker.server import LocalBroker, start_local_broker

app = SubcommandApp()


@app.command
def run(*, port: int = 1883, bind: str = "127.0.0.1", backend: Literal["auto", "mosquitto", "amqtt"] = "auto") -> None:
    """Run a broker until Ctrl-C. It has no password and no encryption, and keeps nothing on disk.

    Args:
        port: Port to listen on; 0 takes a free one.
        bind: Address to listen on. 127.0.0.1 lets in this machine only; 0.0.0.0 whoever can reach it.
        backend: Program that serves; auto is mosquitto where it is found, else amqtt.

    """
    try:
        with start_local_broker(port=port, bind=bind, backend=backend) as broker:
            _announce(broker, bind)
            status = broker.wait()
            raise BrokerUnavailable(
                f"{broker.backend} ended by itself, status {status}. It printed:\n{broker.last_output()}"
            )
    except KeyboardInterrupt:
        print("the broker has stopped")


def _announce(broker: LocalBroker, bind: str) -> None:
    url, elsewhere = broker.url, "only this machine gets in; --bind 0.0.0.0 lets in others"
    if not is_loopback(bind):
        url, elsewhere = f"mqtt://HOST:{broker.port}", "HOST is this machine's name or address"
        print(
            f"warning: whoever can reach {bind} port {broker.port} can read and write everything: "
            "this broker has no password",
            file=sys.stderr,
        )
    print(
        f"{broker.backend} is running on {bind} port {broker.port} ({elsewhere})\n"
        "Connect a trainer and a robot to it, each in a terminal of its own:\n"
        f"    cloud-trainer run --broker {url} --run-dir runs/cloud\n"
        f"    robot-edge run --broker {url} --robot r1 --source folder:PATH --run-dir runs/r1\n"
        "Ctrl-C stops it.",
        flush=True,
    )


def main() -> None:
    # A closed terminal or `kill` must end the broker as Ctrl-C does: in its own session it would go on alone.
    # What was started to ignore a closed terminal, as by nohup, goes on ignoring it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        app.cli(prog="local-broker", description=__doc__)
    except ReflexarcError as error:
        print(f"local-broker: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

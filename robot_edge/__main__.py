"""`robot-edge`: begins it. What it does is in `commands.py`, which takes a second to import."""

from __future__ import annotations

from broker.startup import let_ctrl_c_end_it, let_waiting_threads_sleep


def main() -> None:
    let_ctrl_c_end_it()
    let_waiting_threads_sleep()
    from robot_edge.commands import main

    main()


if __name__ == "__main__":
    main()

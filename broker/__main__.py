"""`local-broker`: begins it. What it does is in `commands.py`, which takes a second to import."""

from __future__ import annotations

from broker.program.startup import let_ctrl_c_end_it
from broker.program.version import answer_version


def main() -> None:
    let_ctrl_c_end_it()
    answer_version()
    from broker.commands import main

    main()


if __name__ == "__main__":
    main()

#!/usr/bin/env bash
# Makes .venv and installs this project into it: launch/setup.sh demo|docs|photos|test
# For tests it also installs Debian packages where they are missing and where it may: mosquitto, RabbitMQ and NATS,
# PostgreSQL, ffmpeg and GStreamer as cameras, colcon, and Chromium.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s ==\n' "$*"; }
give_up() { printf 'set-up: %s\n' "$*" >&2; exit 1; }

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
can_make_venv() { "$1" -c 'import venv, ensurepip' 2>/dev/null || "$1" -c 'import virtualenv' 2>/dev/null; }

find_python() {
    local candidate recent=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        is_recent "$candidate" || continue
        recent=${recent:-$candidate}
        can_make_venv "$candidate" || continue
        echo "$candidate"
        return
    done
    [ -z "$recent" ] || give_up "$recent cannot make a virtual environment: sudo apt-get install python3-venv"
    give_up "needs Python 3.10 or newer, found none${PYTHON:+ at PYTHON=$PYTHON}:" \
        "install one, or name it: make PYTHON=/path/to/python3"
}

make_venv() {
    .venv/bin/python -m pip --version >/dev/null 2>&1 && is_recent .venv/bin/python && return
    local python
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        "$python" -m venv --clear .venv
    else
        "$python" -m virtualenv --clear .venv
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

has() { PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin" command -v "$1" >/dev/null; }

install_tools() {
    local missing=()
    has mosquitto || missing+=(mosquitto)
    has rabbitmq-server || missing+=(rabbitmq-server)
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || has initdb || missing+=(postgresql)
    has nats-server || missing+=(nats-server)
    has colcon || missing+=(colcon python3-colcon-ros)
    has ffmpeg || missing+=(ffmpeg)
    has chromium || has chromium-browser || has google-chrome || missing+=(chromium)
    has gst-launch-1.0 ||
        missing+=(gstreamer1.0-tools gstreamer1.0-plugins-good gir1.2-gst-rtsp-server-1.0 python3-gi)
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! { command -v apt-get && as_root true; } >/dev/null 2>&1; then return; fi
    say "installing ${missing[*]}, which some tests need"
    if ! { as_root apt-get -qq update && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "${missing[@]}"; }; then
        echo "could not install ${missing[*]}; the test run will say what it left out"
        return
    fi
    # Tests start their own. The service that came with mosquitto would keep port 1883 from `local-broker`.
    as_root systemctl disable --now mosquitto rabbitmq-server nats-server postgresql >/dev/null 2>&1 || true
}

make_venv
say "installing reflexarc[$1] into .venv: torch is large, this takes minutes"
.venv/bin/python -m pip install --disable-pip-version-check -e ".[$1]"
[ "$1" != test ] || install_tools </dev/null

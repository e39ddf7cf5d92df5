# A robot, for amd64 and arm64, on PyTorch's CPU build; the build's context is the project's folder:
#
#     docker build -f launch/robot.Dockerfile -t reflexarc-robot .
#     docker run --rm --device /dev/video0 --group-add video --user $(id -u) -v "$PWD/runs:/var/lib/reflexarc/runs" \
#         reflexarc-robot run --source camera:0 --broker mqtt://HOST --robot r1 --run-dir runs/r1
#
# For a robot with another processor than this machine's: docker buildx build --platform linux/arm64 ...
# On a Jetson: --build-arg BASE=IMAGE with an image of NVIDIA's that has PyTorch, and --build-arg TORCH_INDEX= to keep it.
# For gst: --build-arg PACKAGES="gstreamer1.0-tools gstreamer1.0-plugins-good"
ARG BASE=python:3.12-slim
FROM ${BASE}
ARG PACKAGES=""
RUN if [ -n "${PACKAGES}" ]; then \
        apt-get update && apt-get install -y --no-install-recommends ${PACKAGES} && rm -rf /var/lib/apt/lists/*; \
    fi
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ -n "${TORCH_INDEX}" ]; then \
        pip install --no-cache-dir torch torchvision --index-url "${TORCH_INDEX}"; \
    fi
ARG EXTRAS=camera,page,plot,video
COPY . /src
RUN pip install --no-cache-dir "/src[${EXTRAS}]" && rm -rf /src
WORKDIR /var/lib/reflexarc
# Where weights, curves and pages keep what they download or compute, for any user.
ENV TORCH_HOME=/tmp MPLCONFIGDIR=/tmp NICEGUI_STORAGE_PATH=/tmp/nicegui
ENTRYPOINT ["robot-edge"]
CMD ["doctor"]

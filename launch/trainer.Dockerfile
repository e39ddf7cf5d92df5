# The cloud trainer of launch/compose.yaml, on PyTorch's CPU build; the build's context is the project's folder.
FROM python:3.12-slim
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install --no-cache-dir '/src[plot]' && rm -rf /src
ENTRYPOINT ["cloud-trainer"]

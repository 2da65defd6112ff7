# One image for every process: `docker run callboard http`, `actors`, `worker` or `migrate`.
FROM python:3.11-slim AS build
WORKDIR /build
COPY requirements.lock requirements.production.lock ./
RUN awk '/^[^ ]/ { keep = /^uv==/ } keep' requirements.lock > uv.txt \
    && pip install --no-cache-dir --require-hashes --no-deps -r uv.txt
RUN uv venv --no-cache --python python3.11 /opt/callboard \
    && uv pip install --no-cache --python /opt/callboard --require-hashes --compile-bytecode \
       -r requirements.production.lock
COPY pyproject.toml README.md ./
COPY runtime runtime
COPY actors actors
COPY http http
COPY migrations migrations
RUN uv build --no-cache --wheel --build-constraints requirements.lock --require-hashes --out-dir dist \
    && uv pip install --no-cache --python /opt/callboard --no-deps --compile-bytecode dist/*.whl

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 callboard
COPY --from=build /opt/callboard /opt/callboard
COPY scripts/container_health.py /opt/callboard/
ENV PATH=/opt/callboard/bin:$PATH PYTHONUNBUFFERED=1
USER callboard
WORKDIR /home/callboard
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/callboard/container_health.py"]
ENTRYPOINT ["callboard"]
CMD ["http"]

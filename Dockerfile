FROM python:3.13-slim AS build
WORKDIR /source
COPY setup.cfg setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY client client
COPY fastlane fastlane
COPY static static
COPY templates templates
RUN pip wheel --no-cache-dir --wheel-dir /wheels ./client .

FROM python:3.13-slim
RUN --mount=from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels fastlane \
    && useradd --system --uid 10000 --home-dir /data --create-home fastlane
USER fastlane
# It does not start without BASIC_AUTH_USER and BASIC_AUTH_PASSWORD, or AUTH=none where only those who
# may run anything can reach its port, as with -p 127.0.0.1:10000:10000.
ENV HOST=0.0.0.0 PORT=10000 DATA_DIR=/data LOG_FORMAT=json
VOLUME /data
EXPOSE 10000
# It fails while a store is unreachable, and needs no credentials. A worker is known by ROLES.
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 \
    CMD ["fastlane", "healthcheck"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["fastlane"]
CMD ["server"]

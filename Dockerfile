# docs/docker.md. The build compiles DuckDB with optimisation, which takes an hour and more on two cores; without it
# (--build-arg FEATURES=--no-default-features) DuckDB databases are replicated and restored all the same, but not checked by DuckDB.
FROM docker.io/library/rust:1-trixie AS build
ARG FEATURES=
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist --bin replicate $FEATURES

FROM docker.io/library/debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libstdc++6 tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /data \
    && chown 10001:10001 /data
COPY --from=build /src/target/dist/replicate /usr/local/bin/replicate
COPY packaging/entrypoint.sh /usr/local/bin/replicate-entrypoint
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 9187
ENV REPLICATE_LISTEN=0.0.0.0:9187
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/replicate-entrypoint"]

# One target per binary: docker build --target operator .
FROM node:24-bookworm-slim AS build
WORKDIR /src
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY . .
RUN node build.js

FROM node:24-bookworm-slim AS base
WORKDIR /app
COPY --from=build /src/dist /app
USER 65532:65532
ENV NODE_ENV=production

FROM base AS operator
ENTRYPOINT ["node", "--enable-source-maps", "/app/operator.mjs"]

FROM base AS epp
# As in bin/signalbox-epp.
ENV MALLOC_ARENA_MAX=1
ENTRYPOINT ["node", "--max-semi-space-size=4", "/app/epp.mjs"]

FROM base AS sidecar
# Streams leave little behind that is young for long: a small nursery halves what 2,000 of them take.
ENTRYPOINT ["node", "--enable-source-maps", "--max-semi-space-size=4", "/app/sidecar.mjs"]

FROM base AS sim
ENTRYPOINT ["node", "--enable-source-maps", "/app/sim.mjs"]

FROM base AS cli
COPY --from=build /src/helm /helm
COPY --from=build /src/config /config
ENTRYPOINT ["node", "--enable-source-maps", "/app/signalbox.mjs"]

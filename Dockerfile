# One target per binary: docker build --target operator .
# The images hold Node, the libraries that it is linked with and one bundle: no shell, no package manager. They run as 65532
# and need no writable file system but /tmp.
FROM node:24-bookworm-slim AS build
WORKDIR /src
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY . .
RUN sh image/rootfs.sh "$(command -v node)" /rootfs \
 && for name in operator epp sidecar sim signalbox; do node build.js /out/$name $name || exit 1; done \
 && sh image/native.sh zeromq /out/epp /out/sim

FROM scratch AS base
COPY --from=build /rootfs /
WORKDIR /app
USER 65532:65532
ENV NODE_ENV=production PATH=/bin

FROM base AS operator
COPY --from=build /out/operator /app
# Without source maps: they are 30 MB of memory, and the bundle keeps its names.
ENTRYPOINT ["/bin/node", "--max-semi-space-size=4", "/app/operator.mjs"]

FROM base AS epp
COPY --from=build /out/epp /app
# As in bin/signalbox-epp.
ENV MALLOC_ARENA_MAX=1
ENTRYPOINT ["/bin/node", "--max-semi-space-size=4", "/app/epp.mjs"]

FROM base AS sidecar
COPY --from=build /out/sidecar /app
# Streams leave little behind that is young for long: a small nursery halves what 2,000 of them take.
ENTRYPOINT ["/bin/node", "--enable-source-maps", "--max-semi-space-size=4", "/app/sidecar.mjs"]

FROM base AS sim
COPY --from=build /out/sim /app
ENTRYPOINT ["/bin/node", "--enable-source-maps", "/app/sim.mjs"]

FROM base AS cli
COPY --from=build /out/signalbox /app
COPY --from=build /src/helm /helm
COPY --from=build /src/config /config
ENTRYPOINT ["/bin/node", "--enable-source-maps", "/app/signalbox.mjs"]

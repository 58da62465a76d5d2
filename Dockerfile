# syntax=docker/dockerfile:1

# The compiler runs on the machine that builds, for the platform that is wanted.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
# With .git, where `cinnabar version` has the commit from.
COPY . .
ARG TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags="-s -w" -o /cinnabar ./cmd/cinnabar

# Only the binary, and the certificates it needs to check those of PostgreSQL.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /cinnabar /cinnabar
USER 65532:65532
EXPOSE 3000
# No HEALTHCHECK: there is no shell or client in here that could ask. Let the
# platform probe port 3000.
ENTRYPOINT ["/cinnabar"]
CMD ["serve"]

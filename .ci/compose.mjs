// Reads a compose file, checks what `docker compose config` would refuse, and
// prints the environment of one service as NAME=value, each ended by NUL.
//
//	node compose.mjs docker-compose.yml SERVICE
//
// It needs the npm package yaml and knows no more of the format than our file
// uses: what it does not know is an error.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { parse } = createRequire(process.env.NODE_MODULES + "/")("yaml");
const [file, wanted] = process.argv.slice(2);

function fail(message) {
  console.error(`${file}: ${message}`);
  process.exit(1);
}

function only(where, object, ...known) {
  if (object === null || typeof object !== "object" || Array.isArray(object)) fail(`${where} is not a mapping`);
  for (const key of Object.keys(object)) if (!known.includes(key)) fail(`${where}: unknown key ${key}`);
}

function interpolate(where, text) {
  return text.replace(/\$(?:\{(\w+)(?::([?-])([^}]*))?\}|(.?))/g, (all, name, kind, rest, other) => {
    if (name === undefined) return other === "$" ? "$" : fail(`${where}: ${all} is not understood`);
    const value = process.env[name] ?? "";
    if (value !== "" || kind === undefined) return value;
    return kind === "-" ? rest : fail(`required variable ${name} is missing a value: ${rest}`);
  });
}

const compose = parse(readFileSync(file, "utf8"), { uniqueKeys: true, strict: true });
only("top level", compose, "services", "volumes");
only("volumes", compose.volumes, ...Object.keys(compose.volumes));
for (const [name, service] of Object.entries(compose.services)) {
  only(name, service, "image", "build", "environment", "volumes", "healthcheck", "restart", "depends_on", "ports");
  if (!service.image === !service.build) fail(`${name}: needs either image or build`);
  for (const volume of service.volumes ?? []) {
    if (!(volume.split(":")[0] in compose.volumes)) fail(`${name}: volume ${volume} is not declared`);
  }
  for (const [other, { condition }] of Object.entries(service.depends_on ?? {})) {
    if (!compose.services[other]) fail(`${name}: depends on ${other}, which does not exist`);
    if (condition === "service_healthy" && !compose.services[other].healthcheck) fail(`${other} has no health check`);
  }
  for (const port of service.ports ?? []) {
    if (typeof port !== "string" || !/^\d+:\d+$/.test(port)) fail(`${name}: port ${port} is not "NUMBER:NUMBER"`);
  }
}
if (!compose.services[wanted]) fail(`there is no service ${wanted}`);
for (const [name, value] of Object.entries(compose.services[wanted].environment)) {
  process.stdout.write(`${name}=${interpolate(name, String(value))}\0`);
}

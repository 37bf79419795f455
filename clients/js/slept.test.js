// Run by tests/test_conformance_js.py: after a silence of this program a forgotten session shows.

import { once } from "node:events";

import { Client } from "./client.js";

const realNow = performance.now.bind(performance);
let sleptMs = 0;
performance.now = () => realNow() + sleptMs;

const client = new Client({ endpoint: process.argv[2] });
const lost = client.ask("ann", "x");
const pieces = lost[Symbol.asyncIterator]();
console.log((await pieces.next()).value);
await once(process.stdin, "data"); // the server has forgotten the session by now
sleptMs = 31_000;
await client.request("ping", {});
console.log(await lost.result.catch((error) => error.code));
client.close();
process.stdin.destroy();

// A village, a keeper of an inn, and a question. Run: node example.js [endpoint]

import { Client } from "./client.js";

const client = new Client({ name: "example", endpoint: process.argv[2] });
await client.request("world.put", {
  world: "village",
  state: { places: { inn: { rooms_free: 3, keeper: "Mira" } } },
});
await client.request("agent.put", {
  agent: "mira",
  world: "village",
  profile: "Mira runs the inn.",
});
const answer = client.ask("mira", "How many rooms are free?", { max_tokens: 40 });
for await (const text of answer) process.stdout.write(text);
console.log(`\nfirst token after ${(await answer.result).usage.ttft_ms} ms`);
client.close();
